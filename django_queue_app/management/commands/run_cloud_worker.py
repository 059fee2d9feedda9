"""`manage.py run_cloud_worker`: serve the cloud lane on the server itself.

It runs the same worker program as a lab PC does, as a child, with a token that lives as long as
this command. The packages don't import each other: the child speaks HTTP like any other worker.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_queue_app import tokens
from django_queue_app.conf import conf
from django_queue_app.management.database_command import DatabaseCommand
from django_queue_app.models import ApiToken
from django_queue_app.states import Lane

# The worker's own code for "the device is in a bad state, start me again".
EXIT_RESTART = 70
# Time for a driver to come back, and a bound on how fast a broken device makes us spin.
PAUSE_S = 3.0
# A network that runs on all cores for a minute must not make the pages of the site wait.
NICER_BY = 10
_PASSED_ON = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
]


class Command(DatabaseCommand):
    """Run the worker for the cloud lane."""

    help = "Run the worker program for the cloud lane until it is told to stop."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare where the site is reached and what else the worker gets."""
        parser.add_argument(
            "--url",
            default=os.environ.get("DJANGO_API_URL", "http://127.0.0.1:8000"),
            help="address of this site for the worker (default: DJANGO_API_URL or %(default)s)",
        )
        parser.add_argument("--name", default=f"cloud-{socket.gethostname()}"[:150])
        parser.add_argument(
            "--config", type=Path, default=None, help="the worker's config.yaml, if not its own"
        )
        parser.add_argument(
            "--program", nargs="+", default=None, help="command line to run as the worker"
        )

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Start the worker, start it again on exit 70, and end with its exit code."""
        command = options["program"] or _command(options["name"], options["config"])
        with Supervisor() as supervisor, _token(options["name"]) as secret:
            environment = {
                **os.environ,
                "WORKER_TOKEN": secret,
                "DJANGO_API_URL": options["url"],
            }
            # Other credentials in the environment would contradict the token made for it.
            environment.pop("DJANGO_API_AUTH", None)
            code = supervisor.run(command, environment)
        if code != 0 and not supervisor.is_stopped:
            raise CommandError(
                f"The worker ended with exit code {code}; its log says why.", returncode=code
            )


def _command(name: str, config: Path | None) -> list[str]:
    given = ["--config", str(config)] if config else []
    # A folder of its own: a lab worker on the same machine may use the configuration's.
    folder = conf.data_dir.resolve() / "cloud_worker"
    own = ["--lane", Lane.CLOUD.value, "--name", name, "--work-dir", str(folder)]
    return [sys.executable, "-m", "worker", "run", *own, *given]


@contextmanager
def _token(name: str) -> Iterator[str]:
    """Make the worker's token, and revoke it at the end.

    A token of this name that a killed run left behind is revoked first; the name stays the same,
    so that what the killed worker had finished is still taken from its successor.
    """
    left = ApiToken.objects.live().filter(name=name, lane=Lane.CLOUD).first()
    if left is not None:
        tokens.revoke(left)
    token, secret = tokens.create(name=name, kind=ApiToken.Kind.WORKER, lane=Lane.CLOUD)
    try:
        yield secret
    finally:
        tokens.revoke(token)


def _start_behind(
    command: Sequence[str], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a program, and whatever it starts, behind the site in the queue for the processor."""
    if os.name == "posix":
        child = subprocess.Popen(command, env=dict(environment), start_new_session=True)
        behind = min(os.getpriority(os.PRIO_PROCESS, 0) + NICER_BY, 19)
        with suppress(ProcessLookupError):  # it ended already
            os.setpriority(os.PRIO_PROCESS, child.pid, behind)
        return child
    below: int = getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0)
    return subprocess.Popen(command, env=dict(environment), creationflags=below)


class Supervisor:
    """Keeps one child running, and passes on the signals that we are stopped with.

    The child gets its own session on POSIX, so that Ctrl-C reaches it once, through us.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._previous: dict[int, Any] = {}

    @property
    def is_stopped(self) -> bool:
        """Whether somebody told us to end."""
        return self._stop.is_set()

    def __enter__(self) -> Supervisor:
        self._previous = {number: signal.signal(number, self._pass_on) for number in _PASSED_ON}
        return self

    def __exit__(self, *_error: object) -> None:
        child = self._child
        if child is not None and child.poll() is None:
            child.kill()
            child.wait()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run the command until it ends for another reason than to be started again."""
        while True:
            self._child = _start_behind(command, environment)
            if self.is_stopped:  # the signal came before there was a child to pass it to
                self._send(signal.SIGTERM)
            code = self._child.wait()
            if code != EXIT_RESTART or self._stop.wait(PAUSE_S):
                return code

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._stop.set()
        self._send(number)

    def _send(self, number: int) -> None:
        # On Windows the console sends Ctrl-C and Ctrl-Break to the child by itself, and a signal
        # sent by a program is a kill: it would cut off the worker's own clean end.
        if os.name == "posix" and self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)

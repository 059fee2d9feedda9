"""The parent's side of the child process that runs the networks.

Both speak JSON lines over stdin and stdout. The child keeps its model warm between cases, and can
be killed with everything it started: that is how a hang, a cancelled request, a crash in native
code or a lack of memory ends without the daemon.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from worker.adapters.exit_words import ending_in_words
from worker.core.errors import (
    EngineBroken,
    EngineCrashed,
    EngineNotStarting,
    EngineOutOfMemory,
    ModelInvalid,
    SeriesInvalid,
    SettingsError,
    WorkerError,
)
from worker.core.job import Case, CaseResult
from worker.ports import OnProgress

logger = logging.getLogger(__name__)

# The child runs code of others (bundles): it has no business with what opens the site.
_SECRETS = ("WORKER_TOKEN", "DJANGO_API_AUTH", "ORTHANC_PASSWORD")
_KEPT_LINES = 30
_CLOSE_S = 5.0
_END = "end of output"

_KINDS: Mapping[str, type[WorkerError]] = {
    "series_invalid": SeriesInvalid,
    "out_of_memory": EngineOutOfMemory,
    "engine_broken": EngineBroken,
    "model_invalid": ModelInvalid,
    "bad_settings": SettingsError,
}


def child_command(config_path: Path) -> list[str]:
    """Give the command that starts the real child."""
    return [sys.executable, "-m", "worker.case_child", "--config", str(config_path)]


class CaseProcess:
    """`ports.CaseRunner` in a child process.

    Parameters
    ----------
    command : sequence of str
        What to start, see `child_command`.
    start_timeout_s : float
        How long the child may take until it says that it is ready.
    on_start : callable
        Called at each start of a child.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        start_timeout_s: float = 180,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        self._command = list(command)
        self._on_start = on_start
        self._start_timeout_s = start_timeout_s
        self._child: _Child | None = None
        self._lock = threading.Lock()
        self._is_closed = False
        self._is_busy = False
        self._warm_model: str | None = None
        self.device = ""
        self.device_report: dict[str, Any] = {}
        self.models: tuple[str, ...] = ()

    def start(self) -> None:
        """Start the child where none is alive, without waiting for it."""
        self._living()

    def keep_warm(self, model: str) -> None:
        """Load `model` now, without waiting, and into each later child as it starts."""
        self._warm_model = model
        self._living().send({"type": "warm", "model": model})

    def wait_ready(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Wait until the child is up, or `give_up` says that nobody wants it any more.

        Raises
        ------
        EngineNotStarting
            It ended, said so, or took too long.
        """
        child = self._living()
        body = child.wait_ready(self._start_timeout_s, give_up)
        self.device = str(body.get("device", ""))
        self.device_report = dict(body.get("report") or {})
        self.models = tuple(_model_name(item) for item in body.get("models", ()))

    def run(self, case: Case, *, on_progress: OnProgress) -> CaseResult:
        """Segment a case and wait for its end.

        Raises
        ------
        WorkerError
            What the child said, or EngineCrashed where it ended instead.
        """
        self.wait_ready()
        child = self._living()
        child.forget_old_messages()
        self._is_busy = True
        try:
            child.send({"type": "case", **case.to_json()})
            return self._follow(child, on_progress)
        except _ChildError as error:
            if type(error.cause) is WorkerError:
                # Nobody foresaw it, so what the child wrote about it is worth keeping.
                child.log_last_words()
            if isinstance(error.cause, EngineBroken):
                # Every later call of this process would fail; the next case gets a fresh one.
                child.kill()
            raise error.cause from None
        except BaseException:
            # It is in the middle of a case that nobody waits for any more.
            child.kill()
            raise
        finally:
            self._is_busy = False

    def _follow(self, child: _Child, on_progress: OnProgress) -> CaseResult:
        while True:
            message = child.next_message()
            match message.get("type"):
                case "progress":
                    on_progress(str(message["stage"]), float(message["progress"]))
                case "result":
                    return CaseResult.from_json(
                        {key: value for key, value in message.items() if key != "type"}
                    )
                case "error" if message.get("during") != "warm":
                    raise _ChildError(error_of(message))
                case _:
                    # Also the failure of a warm-up that was under way: this case will meet it too.
                    logger.debug("child_message", extra={"type": message.get("type")})

    def warm(self, model: str) -> float:
        """Load a model and wait for it; gives the seconds it took. Used by `doctor`."""
        self.wait_ready()
        child = self._living()
        child.forget_old_messages()
        started = time.monotonic()
        child.send({"type": "warm", "model": model})
        while True:
            message = child.next_message()
            if message.get("type") == "error":
                raise error_of(message)
            if message.get("type") in ("warm", "warmed", "ready"):
                return time.monotonic() - started

    def kill(self) -> None:
        """End the child and all that it started, at once; safe from any thread."""
        child = self._child
        if child is not None:
            child.kill()

    def interrupt(self) -> None:
        """End the child if a case is running in it; an idle one stays warm."""
        if self._is_busy:
            self.kill()

    def close(self) -> None:
        """Let an idle child end; kill it if it does not."""
        self._is_closed = True
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def _living(self) -> _Child:
        with self._lock:
            if self._is_closed:
                raise EngineCrashed("The inference process was closed.")
            if self._child is None or not self._child.is_alive():
                if self._child is not None:
                    self._child.close()
                self._child = _Child(self._command)
                self._on_start()
                if self._warm_model is not None:
                    self._child.send({"type": "warm", "model": self._warm_model})
            return self._child


def _model_name(item: Any) -> str:
    return str(item.get("name", "")) if isinstance(item, Mapping) else str(item)


def error_of(message: Mapping[str, Any]) -> WorkerError:
    """Make the error that the child described."""
    code = str(message.get("code") or "failed")
    text = str(message.get("message") or "The segmentation failed.")
    kind = str(message.get("kind") or "failed")
    if kind == "failed" and code.startswith("model_"):
        kind = "model_invalid"
    error = _KINDS.get(kind, WorkerError)(text, code=code)
    if "retryable" in message:
        error.is_retryable = bool(message["retryable"])
    return error


def _not_starting(error: WorkerError) -> WorkerError:
    is_device = isinstance(error, EngineBroken)
    return EngineNotStarting(error.message, code=error.code) if is_device else error


class _ChildError(Exception):
    """The child itself said that the case failed, so it is idle again and may live on."""

    def __init__(self, cause: WorkerError) -> None:
        super().__init__(cause.message)
        self.cause = cause


class _Child:
    """One process, its pipes and the two threads that empty them."""

    def __init__(self, command: Sequence[str]) -> None:
        self._messages: queue.Queue[dict[str, Any] | str] = queue.Queue()
        self._ready: dict[str, Any] | None = None
        self._is_killed = False
        self.last_lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            text=True,
            encoding="utf-8",
            errors="replace",
            **_own_group(),
        )
        self._stdin = cast("IO[str]", self._process.stdin)
        self._stdout = cast("IO[str]", self._process.stdout)
        self._stderr = cast("IO[str]", self._process.stderr)
        logger.info("child_started", extra={"pid": self._process.pid})
        self._threads = [
            threading.Thread(target=self._read_messages, daemon=True, name="child-messages"),
            threading.Thread(target=self._read_log, daemon=True, name="child-log"),
        ]
        for thread in self._threads:
            thread.start()

    def is_alive(self) -> bool:
        # One that was killed may take a moment to be gone.
        return not self._is_killed and self._process.poll() is None

    def send(self, message: Mapping[str, Any]) -> None:
        try:
            self._stdin.write(json.dumps(message, ensure_ascii=False) + "\n")
            self._stdin.flush()
        except (OSError, ValueError):
            # It has ended; who waits for its messages learns how.
            logger.debug("child_not_listening")

    def wait_ready(self, timeout_s: float, give_up: Callable[[], bool]) -> dict[str, Any]:
        end = time.monotonic() + timeout_s
        while self._ready is None:
            try:
                message = self._messages.get(timeout=0.2)
            except queue.Empty:
                if give_up():
                    return {}
                if time.monotonic() > end:
                    self.kill()
                    raise EngineNotStarting(
                        f"The inference process did not start within {timeout_s:g} s: run "
                        "'mri-worker doctor'."
                    ) from None
                continue
            if isinstance(message, str):
                raise EngineNotStarting(
                    f"The inference process {self._ending()} before it was ready"
                    f"{self._last_line()}: run 'mri-worker doctor'."
                )
            if message.get("type") == "error":
                raise _not_starting(error_of(message))
            if message.get("type") == "ready":
                self._ready = message
        return self._ready

    def forget_old_messages(self) -> None:
        """Drop what came while no case ran, such as the progress of a warm-up."""
        with contextlib.suppress(queue.Empty):
            while True:
                message = self._messages.get_nowait()
                if isinstance(message, str):
                    self._messages.put(message)
                    return
                if message.get("type") == "error":
                    logger.warning("child_error_while_idle", extra={"code": message.get("code")})

    def next_message(self) -> dict[str, Any]:
        while True:
            try:
                # Woken now and then, so that the main thread sees a signal on every system.
                message = self._messages.get(timeout=0.2)
            except queue.Empty:
                continue
            if isinstance(message, str):
                raise self._crash()
            return message

    def _crash(self) -> EngineCrashed:
        ending = self._ending()
        if not self._is_killed:
            self.log_last_words()
        return EngineCrashed(f"The inference process {ending}.")

    def log_last_words(self) -> None:
        """Put the child's latest lines into the log."""
        # Its messages and its log come by two pipes: let the second catch up.
        time.sleep(0.1)
        for line in list(self.last_lines):
            logger.error("child_last_words", extra={"line": line})
        self.last_lines.clear()

    def _ending(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_CLOSE_S)
        self._threads[1].join(timeout=1)
        return ending_in_words(self._process.returncode)

    def _last_line(self) -> str:
        line = next((line for line in reversed(self.last_lines) if line.strip()), "")
        return f" ({line.strip()[:200]})" if line else ""

    def kill(self) -> None:
        if self._process.poll() is not None:
            return
        self._is_killed = True
        if sys.platform == "win32":
            subprocess.run(
                ["taskkill", "/T", "/F", "/PID", str(self._process.pid)],
                capture_output=True,
                check=False,
            )
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        if self.is_alive():
            self.send({"type": "exit"})
            try:
                self._process.wait(timeout=_CLOSE_S)
            except subprocess.TimeoutExpired:
                self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_CLOSE_S)
        for thread in self._threads:
            thread.join(timeout=_CLOSE_S)
        for pipe in (self._stdin, self._stdout, self._stderr):
            with contextlib.suppress(OSError, ValueError):
                pipe.close()

    def _read_messages(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self._stdout:
                message = _decode(line)
                if message is not None:
                    self._messages.put(message)
        self._messages.put(_END)

    def _read_log(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self._stderr:
                self.last_lines.append(line.rstrip())
                logger.debug("child_says", extra={"line": line.rstrip()})


def _decode(line: str) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        logger.debug("child_line_ignored", extra={"line": line.rstrip()[:200]})
        return None
    return message


def _environment() -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key not in _SECRETS}
    # The package may lie beside config.yaml instead of in site-packages.
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    environment["PYTHONIOENCODING"] = "utf-8"
    return environment


def _own_group() -> dict[str, Any]:
    """Keep Ctrl-C from the child (we decide its end), and let its whole tree be killed."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}

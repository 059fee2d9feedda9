"""The parent's side of the child process that runs the networks.

Both speak JSON lines over stdin and stdout. The child keeps its model warm between cases, and can
be killed with everything it started: that is how a hang, a cancelled request, a crash in native
code or a lack of memory ends without the daemon.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from worker.adapters.child import Child, error_of
from worker.adapters.device_turn import DeviceTurn, Turn
from worker.core.errors import (
    EngineBroken,
    EngineCrashed,
    WorkerError,
)
from worker.core.job import Case, CaseResult
from worker.ports import OnProgress, OnWait, no_wait

logger = logging.getLogger(__name__)

# How often a case that waits for the device looks whether it is still wanted.
_LOOK_S = 0.1


def child_command(config_path: Path, device: str | None = None) -> list[str]:
    """Give the command that starts the real child, on a device other than the first if named."""
    command = [sys.executable, "-m", "worker.case_child", "--config", str(config_path)]
    return command if device is None else [*command, "--device", device]


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
    device_turn : DeviceTurn, optional
        Shared with the other processes of the same device.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        start_timeout_s: float = 180,
        on_start: Callable[[], None] = lambda: None,
        device_turn: DeviceTurn | None = None,
    ) -> None:
        self._command = list(command)
        self.device_turn = device_turn or DeviceTurn()
        self._on_start = on_start
        self._start_timeout_s = start_timeout_s
        self._child: Child | None = None
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
        """Load `model` now if a child is up, without waiting, and into each later child."""
        self._warm_model = model
        child = self._child
        if child is not None and child.is_alive():
            child.send({"type": "warm", "model": model})

    def is_started(self) -> bool:
        """Tell whether a child is alive and its start is over."""
        child = self._child
        return child is not None and child.is_alive() and child.has_started()

    def is_starting(self) -> bool:
        """Tell whether a child was started that neither is ready nor has ended."""
        child = self._child
        return child is not None and not child.has_started()

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

    def run(self, case: Case, *, on_progress: OnProgress, on_wait: OnWait = no_wait) -> CaseResult:
        """Segment a case and wait for its end.

        Raises
        ------
        WorkerError
            What the child said, or EngineCrashed where it ended instead.
        """
        self.wait_ready()
        child = self._living()
        child.forget_old_messages()
        child.work_for_caller()
        self._is_busy = True
        turn = self.device_turn.ticket()
        try:
            child.send({"type": "case", **case.to_json()})
            return self._follow(child, on_progress, on_wait, turn)
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
            if turn.is_held and not child.is_alive():
                child.wait_gone()  # what it held on the device is free only then
            turn.end()

    def _follow(
        self, child: Child, on_progress: OnProgress, on_wait: OnWait, turn: Turn
    ) -> CaseResult:
        while True:
            message = child.next_message()
            match message.get("type"):
                case "device_wanted":
                    while child.is_alive() and not turn.wait(_LOOK_S):
                        on_wait()
                    child.send({"type": "device_granted", "is_shared": turn.is_shared})
                case "device_done":
                    turn.end()
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

    def _living(self) -> Child:
        with self._lock:
            if self._is_closed:
                raise EngineCrashed("The inference process was closed.")
            if self._child is None or not self._child.is_alive():
                if self._child is not None:
                    self._child.close()
                self._child = Child(self._command)
                self._on_start()
                if self._warm_model is not None:
                    self._child.send({"type": "warm", "model": self._warm_model})
            return self._child


def _model_name(item: Any) -> str:
    return str(item.get("name", "")) if isinstance(item, Mapping) else str(item)


class _ChildError(Exception):
    """The child itself said that the case failed, so it is idle again and may live on."""

    def __init__(self, cause: WorkerError) -> None:
        super().__init__(cause.message)
        self.cause = cause

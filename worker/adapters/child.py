"""One child process, its pipes and the two threads that empty them."""

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
from worker.log import carried

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


class Child:
    """A process that speaks JSON lines over stdin and stdout; it is started at once."""

    def __init__(self, command: Sequence[str]) -> None:
        self._messages: queue.Queue[dict[str, Any] | str] = queue.Queue()
        self._ready: dict[str, Any] | None = None
        self._ready_lock = threading.Lock()
        self._has_spoken = threading.Event()
        self._is_killed = False
        self._log_line = _log_line
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

    def work_for_caller(self) -> None:
        """Let the lines that it writes be about what this thread's lines are about."""
        self._log_line = carried(_log_line)

    def is_alive(self) -> bool:
        """Tell whether it runs."""
        # One that was killed may take a moment to be gone.
        return not self._is_killed and self._process.poll() is None

    def has_started(self) -> bool:
        """Tell whether its start is over, well or not."""
        return self._has_spoken.is_set()

    def send(self, message: Mapping[str, Any]) -> None:
        """Say something, if it still listens."""
        try:
            self._stdin.write(json.dumps(message, ensure_ascii=False) + "\n")
            self._stdin.flush()
        except (OSError, ValueError):
            # It has ended; who waits for its messages learns how.
            logger.debug("child_not_listening")

    def wait_ready(self, timeout_s: float, give_up: Callable[[], bool]) -> dict[str, Any]:
        """Wait for its first message and give it; empty where `give_up` said so. Thread-safe.

        Raises
        ------
        WorkerError
            What it said instead, or EngineNotStarting where it ended or took too long.
        """
        end = time.monotonic() + timeout_s
        while True:
            # One thread at a time, or the second would take what the first case is answered.
            with self._ready_lock:
                if self._ready is None:
                    self._ready = self._look_for_ready()
                if self._ready is not None:
                    return self._ready
            if give_up():
                return {}
            if time.monotonic() > end:
                self.kill()
                raise EngineNotStarting(
                    f"The inference process did not start within {timeout_s:g} s: run "
                    "'mri-worker doctor'."
                )

    def _look_for_ready(self) -> dict[str, Any] | None:
        try:
            message = self._messages.get(timeout=0.2)
        except queue.Empty:
            return None
        if isinstance(message, str):
            self._messages.put(message)
            raise EngineNotStarting(
                f"The inference process {self._ending()} before it was ready"
                f"{self._last_line()}: run 'mri-worker doctor'."
            )
        if message.get("type") == "error":
            raise _not_starting(error_of(message))
        return message if message.get("type") == "ready" else None

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
        """Wait for what it says next.

        Raises
        ------
        EngineCrashed
            It has ended.
        """
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
        """End it and all that it started, at once; safe from any thread."""
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

    def wait_gone(self) -> None:
        """Wait until a killed one is gone, and its memory with it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_CLOSE_S)

    def close(self) -> None:
        """Let it end; kill it if it does not."""
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
                    self._has_spoken.set()
        self._messages.put(_END)
        self._has_spoken.set()

    def _read_log(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self._stderr:
                self.last_lines.append(line.rstrip())
                self._log_line(line.rstrip())


def _log_line(line: str) -> None:
    logger.debug("child_says", extra={"line": line})


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

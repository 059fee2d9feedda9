"""The start of the inference processes, beside the first polls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from worker.core.errors import DiskFull
from worker.durable import write_json


class EngineStart:
    """Starts the engine in the background; where that failed last time, before anything else.

    Importing torch and loading a model takes seconds, in which the first images can come already.
    But a worker whose device is broken, started again and again, would take a request each time
    only to give it back. So a start that failed is remembered, and the next one must succeed first.

    Parameters
    ----------
    start : callable
        Waits until the engine is up; raises what must end the program.
    prepare : callable
        Called before, at once: what must be known before the first poll.
    work_dir : Path
        Where a failure is remembered.
    """

    def __init__(
        self, start: Callable[[], None], *, prepare: Callable[[], None], work_dir: Path
    ) -> None:
        self._start = start
        self._prepare = prepare
        self._failed = work_dir / "engine_not_started.json"
        self._is_over = threading.Event()
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Start without waiting, or wait where the last start failed."""
        if self._failed.exists():
            self.wait()
            return
        self._prepare()
        threading.Thread(target=self._try, name="engine-start", daemon=True).start()

    def wait(self) -> None:
        """Start, and wait for it.

        Raises
        ------
        WorkerError
            The engine does not start.
        """
        self._prepare()
        self._try()
        self.check()

    def is_ready(self) -> bool:
        """Tell whether the engine is up."""
        return self._is_over.is_set() and self._error is None

    def is_broken(self) -> bool:
        """Tell whether `check` would raise."""
        return self._error is not None

    def check(self) -> None:
        """Raise why the engine does not start, if it does not."""
        if self._error is not None:
            raise self._error

    def _try(self) -> None:
        try:
            self._start()
        except BaseException as error:
            self._error = error
            with suppress(DiskFull, OSError):
                write_json(self._failed, {"reason": str(error)})
        else:
            self._failed.unlink(missing_ok=True)
        self._is_over.set()

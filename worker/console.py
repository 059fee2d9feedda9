"""What a person sees while a case runs: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Protocol

from rich.cells import set_cell_size
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from worker.core.job import STAGES
from worker.language import named

logger = logging.getLogger(__name__)

# What each stage takes of a typical case's time, so that one bar moves evenly; only for show.
_SHARES = {"downloading": 15, "loading": 20, "inferring": 40, "writing": 15, "uploading": 10}


_LABEL_CELLS = 14


def _label(stage: str) -> str:
    """Say a stage in as many cells as any other; a Korean letter takes two."""
    return set_cell_size(named("stage", stage), _LABEL_CELLS)


class View(Protocol):
    """Told how the work moves."""

    def stage(self, request_id: str, stage: str, fraction: float) -> None:
        """Show how much of a stage is done, 0 to 1."""
        ...

    def done(self, request_id: str) -> None:
        """Forget a case that has ended; without any other, show that none is running."""
        ...


class PlainView:
    """Logs the beginning of each stage."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}

    def stage(self, request_id: str, stage: str, fraction: float) -> None:  # noqa: ARG002
        """Log the stage once."""
        if self._shown.get(request_id) != stage:
            self._shown[request_id] = stage
            logger.info("stage", extra={"request_id": request_id, "stage": stage})

    def done(self, request_id: str) -> None:
        """Forget the case."""
        self._shown.pop(request_id, None)


class BarView:
    """One bar over all stages of a case, on a terminal: of several, that of the oldest."""

    def __init__(
        self, console: Console, *, stages: tuple[str, ...] = STAGES, is_waiting_shown: bool = False
    ) -> None:
        self._stages = stages
        self._is_waiting_shown = is_waiting_shown
        self._total = sum(_SHARES[stage] for stage in stages)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._cases: dict[str, None] = {}  # in the order in which they began
        self._shown: str | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> BarView:
        self._progress.start()
        self._show_waiting()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def stage(self, request_id: str, stage: str, fraction: float) -> None:
        """Move the bar."""
        with self._lock:
            self._cases.setdefault(request_id)
            if request_id == next(iter(self._cases)):
                self._move(request_id, stage, fraction)

    def done(self, request_id: str) -> None:
        """Go on with the next case, or show that requests are waited for."""
        with self._lock:
            self._cases.pop(request_id, None)
            if not self._cases:
                self._show_waiting()

    def _move(self, request_id: str, stage: str, fraction: float) -> None:
        if self._shown != request_id:
            self._show_anew(stage, self._total)
            self._shown = request_id
        before = self._stages[: self._stages.index(stage)] if stage in self._stages else ()
        done = sum(_SHARES[name] for name in before) + fraction * _SHARES.get(stage, 0)
        if self._task is not None:
            text = _label(stage)
            self._progress.update(self._task, description=text, completed=done)

    def _show_waiting(self) -> None:
        """Show that requests are waited for, by a bar that only moves to and fro."""
        self._shown = None
        self._show_anew("waiting" if self._is_waiting_shown else None, None)

    def _show_anew(self, text: str | None, total: float | None) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = None if text is None else self._progress.add_task(_label(text), total=total)

"""What a person sees while a case runs: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from worker.core.job import STAGES
from worker.language import named

logger = logging.getLogger(__name__)

# What each stage takes of a typical case's time, so that one bar moves evenly; only for show.
_SHARES = {"downloading": 15, "loading": 20, "inferring": 40, "writing": 15, "uploading": 10}


class View(Protocol):
    """Told how the work moves."""

    def stage(self, request_id: str, stage: str, fraction: float) -> None:
        """Show how much of a stage is done, 0 to 1."""
        ...

    def idle(self) -> None:
        """Show that no case is running."""
        ...


class PlainView:
    """Logs the beginning of each stage."""

    def __init__(self) -> None:
        self._shown = ("", "")

    def stage(self, request_id: str, stage: str, fraction: float) -> None:  # noqa: ARG002
        """Log the stage once."""
        if (request_id, stage) != self._shown:
            self._shown = (request_id, stage)
            logger.info("stage", extra={"request_id": request_id, "stage": stage})

    def idle(self) -> None:
        """Forget the case."""
        self._shown = ("", "")


class BarView:
    """One bar over all stages of a case, on a terminal."""

    def __init__(
        self, console: Console, *, stages: tuple[str, ...] = STAGES, is_waiting_shown: bool = False
    ) -> None:
        self._stages = stages
        self._is_waiting_shown = is_waiting_shown
        self._total = sum(_SHARES[stage] for stage in stages)
        self._progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._is_case_shown = False

    def __enter__(self) -> BarView:
        self._progress.start()
        self.idle()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def stage(self, request_id: str, stage: str, fraction: float) -> None:  # noqa: ARG002
        """Move the bar."""
        if not self._is_case_shown:
            self._show_anew(stage, self._total)
            self._is_case_shown = True
        before = self._stages[: self._stages.index(stage)] if stage in self._stages else ()
        done = sum(_SHARES[name] for name in before) + fraction * _SHARES.get(stage, 0)
        if self._task is not None:
            text = named("stage", stage)
            self._progress.update(self._task, description=text, completed=done)

    def idle(self) -> None:
        """Show that requests are waited for, by a bar that only moves to and fro."""
        self._is_case_shown = False
        self._show_anew("waiting" if self._is_waiting_shown else None, None)

    def _show_anew(self, text: str | None, total: float | None) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = None
        if text is not None:
            self._task = self._progress.add_task(named("stage", text), total=total)

"""What the queue did over time, for the charts of the queue page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median

from django_queue_app.querysets import RequestQuerySet
from django_queue_app.states import Status

# More rows than a day's queue of a large site; a chart of medians needs no more.
MOST_ROWS = 20_000


@dataclass(frozen=True, kw_only=True)
class Span:
    """How far back a chart looks: `bars` steps of `step` each."""

    name: str
    step: timedelta
    bars: int


SPANS = {
    "day": Span(name="day", step=timedelta(hours=1), bars=24),
    "week": Span(name="week", step=timedelta(hours=6), bars=28),
    "month": Span(name="month", step=timedelta(days=1), bars=30),
}


@dataclass(kw_only=True)
class Bar:
    """One step of time: what ended in it, and how long it took (seconds, sorted)."""

    begins: datetime
    completed: int = 0
    failed: int = 0
    waits_s: list[float] = field(default_factory=list)
    works_s: list[float] = field(default_factory=list)

    @property
    def wait_s(self) -> float | None:
        """Median seconds from the filing to the claim."""
        return median(self.waits_s) if self.waits_s else None

    @property
    def work_s(self) -> float | None:
        """Median seconds from the claim to the end."""
        return median(self.works_s) if self.works_s else None


def bars_of(rows: RequestQuerySet, span: Span, now: datetime) -> list[Bar]:
    """Count what ended in each step of the span, the oldest first.

    Parameters
    ----------
    rows : RequestQuerySet
        The requests that the reader may see.
    span : Span
    now : datetime
        The server's time; the last bar ends with it.
    """
    first = now - span.step * span.bars
    bars = [Bar(begins=first + span.step * index) for index in range(span.bars)]
    ended = rows.filter(
        finished_at__gt=first, finished_at__lte=now, status__in=(Status.COMPLETED, Status.FAILED)
    ).order_by("-finished_at")
    fields = ended.values_list("status", "created_at", "started_at", "finished_at")
    for status, created, started, finished in fields[:MOST_ROWS]:
        assert finished is not None  # noqa: S101  (the filter asks for it)
        bar = bars[min(int((finished - first) / span.step), span.bars - 1)]
        _count(bar, status, created, started, finished)
    return bars


def _count(
    bar: Bar, status: str, created: datetime, started: datetime | None, finished: datetime
) -> None:
    if status == Status.FAILED:
        bar.failed += 1
        return
    bar.completed += 1
    if started is not None:
        bar.waits_s.append(max(0.0, (started - created).total_seconds()))
        bar.works_s.append(max(0.0, (finished - started).total_seconds()))


@dataclass(frozen=True, kw_only=True)
class Column:
    """A bar as the template draws it: in units of the picture, from the bottom up."""

    x: float
    width: float
    parts: Sequence[tuple[str, float, float]]
    """Kind, y and height of each part."""
    bar: Bar


def columns_of(
    bars: Sequence[Bar], parts_of: Sequence[str], *, width: float, height: float
) -> tuple[list[Column], float]:
    """Lay stacked bars out in a picture.

    Parameters
    ----------
    parts_of : sequence of str
        Names of the bar's attributes, the lowest first; None counts as nothing.
    width, height : float
        Of the picture.

    Returns
    -------
    list of Column, float
        And the value at the top of the picture.
    """
    values = [[float(getattr(bar, name) or 0.0) for name in parts_of] for bar in bars]
    top = max((sum(one) for one in values), default=0.0)
    step, scale = width / max(len(bars), 1), height / (top or 1.0)
    return [
        _column(bar, one, parts_of, x=index * step, width=step * 0.8, scale=scale, of=height)
        for index, (bar, one) in enumerate(zip(bars, values, strict=True))
    ], top


def _column(
    bar: Bar,
    values: Sequence[float],
    names: Sequence[str],
    *,
    x: float,
    width: float,
    scale: float,
    of: float,
) -> Column:
    parts, y = [], of
    for name, value in zip(names, values, strict=True):
        y -= value * scale
        parts.append((name, round(y, 2), round(value * scale, 2)))
    return Column(x=round(x, 2), width=round(width, 2), parts=parts, bar=bar)

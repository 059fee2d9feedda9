"""Numbers of a benchmark: quantiles, medians with their spread, and a table to read them in."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the others don't exceed; NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def quantiles_ms(seconds: Sequence[float]) -> Row:
    """Return p50, p95 and p99 in milliseconds."""
    return {f"p{share}_ms": 1000 * quantile(seconds, share / 100) for share in (50, 95, 99)}


def over_repeats(rows: Sequence[Mapping[str, Any]]) -> Row:
    """Return each number's median over repeats; where it differs, least and most beside it."""
    merged: Row = {}
    for name, first in rows[0].items():
        if isinstance(first, bool) or not isinstance(first, int | float):
            merged[name] = first
            continue
        values = [float(row[name]) for row in rows]
        merged[name] = statistics.median(values)
        if len(values) > 1:
            merged[f"{name}_spread"] = [min(values), max(values)]
    return merged


def table(title: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """Write rows under the names of their columns; a spread stands in brackets."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    names = [name for name in names if not name.endswith("_spread")]
    lines = [names, *([_cell(row, name) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in lines]  # fmt: skip
    return "\n".join([f"\n{title}", *text])


def _cell(row: Mapping[str, Any], name: str) -> str:
    text = _shown(row.get(name, ""))
    if f"{name}_spread" in row:
        low, high = row[f"{name}_spread"]
        text += f" [{_shown(low)}-{_shown(high)}]"
    return text


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"

"""What `models verify` and `bench` found, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from worker.catalogue import ModelEntry
from worker.language import said

if TYPE_CHECKING:
    from worker.adapters.engine_monai.proof import Measured
    from worker.adapters.engine_monai.search import Found


def print_dice(entry: ModelEntry, columns: Mapping[str, Mapping[int, float]]) -> None:
    """Print each segment's Dice against the reference, a column for each way of running."""
    table = Table(title=said("Dice against contiguous float32"))
    table.add_column(said("Segment"))
    for heading in columns:
        table.add_column(said(heading), justify="right")
    for spec in entry.segments:
        cells = (f"{column.get(spec.label_value, 1.0):.4f}" for column in columns.values())
        table.add_row(f"{spec.label_value} {spec.label}", *cells)
    _print(table)


def print_modes(found: Found) -> None:
    """Print what was tried, and mark the best."""
    table = Table()
    # Eighty columns, as a terminal or a file has them: headings wrap, words are not cut.
    table.add_column(said("Mode"), min_width=max(map(len, _words(found))), overflow="fold")
    for heading in _FIGURES:
        width = max(6, *map(len, said(heading).split()))
        table.add_column(said(heading), justify="right", min_width=6, max_width=width)
    table.add_column()
    for measured in found.tried:
        table.add_row(*_cells(measured, found), style="bold" if measured is found.best else None)
    _print(table)


_FIGURES = ("Seconds", "Times faster", "Peak MB", "GPU busy", "Least Dice")


def _words(found: Found) -> list[str]:
    return [word for one in found.tried for word in said(one.mode.describe()).split()]


def _cells(measured: Measured, found: Found) -> tuple[str, ...]:
    mode = said(measured.mode.describe())
    if measured.problem:
        return (mode, "", "", "", "", "", said(measured.problem))
    busy = "" if measured.utilisation is None else f"{measured.utilisation:.0%}"
    return (
        mode,
        f"{measured.median_s:.3f}",
        f"{found.reference.median_s / measured.median_s:.2f}",
        f"{measured.peak_bytes / 1e6:.0f}",
        busy,
        f"{measured.least_dice:.4f}",
        said(_verdict(measured, found)),
    )


def _verdict(measured: Measured, found: Found) -> str:
    if measured is found.best:
        return "kept"
    if not measured.is_telling:
        return "proves nothing"
    return "agrees" if measured.agrees else "differs"


def print_roofline(figures: Mapping[str, Any]) -> None:
    """Print how far the best lies from what this device could do at most."""
    rows = (
        ("Arithmetic, GFLOP", figures["gflop"]),
        ("Matrix product, GFLOP/s", figures["matrix_gflop_per_s"]),
        ("Copy, GB/s", figures["copy_gb_per_s"]),
        ("Least seconds by these", figures["least_s"]),
        ("Share of that reached", f"{figures['share']:.0%}"),
    )
    table = Table(show_header=False)
    for name, value in rows:
        table.add_row(said(name), str(value))
    _print(table)


def _print(table: Table) -> None:
    Console(highlight=False).print(table)

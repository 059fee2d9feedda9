"""How a case's time and memory grow with slices, matrix, channels and segments.

    python -m benchmarks.growth [--rounds 3] [--axes slices matrix channels segments] [--json FILE]

Everything but the network, with masks that are known beforehand (see `benchmarks/stages.py`). Each
point runs in a process of its own, so that memory that an earlier one left doesn't count. Beside
the figures stands the straight line that they should follow, fitted by least squares, and how far
the worst point lies from it. CPU seconds are the least of the rounds: what else runs on the machine
only adds. Memory is what the case took above what the process held before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.made_case import MadeCase, Size, make_case, size_of
from benchmarks.made_engine import MadeEngine, made_model
from benchmarks.models import REPOSITORY
from benchmarks.stages import WarmCase

BASE: Size = (128, 128, 64, 2)
WARM_UP: Size = (16, 16, 8, 1)
SEGMENTS = 3


@dataclass(frozen=True, kw_only=True)
class Point:
    """One case: the value on its axis, and what it took."""

    value: float
    size: Size
    segments: int
    cpu_s: float
    peak_mb: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """A straight line through points, and the largest distance of one from it."""

    per_unit: float
    at_zero: float
    worst: float


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Points along one axis, and the lines that they follow."""

    name: str
    unit: str
    points: tuple[Point, ...]
    cpu: Line
    memory: Line


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one point is made of."""

    value: float
    size: Size
    segments: int = SEGMENTS


def plans() -> Mapping[str, tuple[str, tuple[Plan, ...]]]:
    """Give the points of each axis, by its name with its unit."""
    columns, rows, slices, series = BASE
    return {
        "slices": (
            "slice of each series",
            tuple(Plan(value=n, size=(columns, rows, n, series)) for n in (32, 64, 96, 128, 160)),
        ),
        "matrix": (
            "thousand pixels of a slice",
            tuple(
                Plan(value=n * n / 1000, size=(n, n, slices, series))
                for n in (96, 160, 208, 240, 272)
            ),
        ),
        "channels": (
            "series",
            tuple(Plan(value=n, size=(columns, rows, slices, n)) for n in (1, 2, 3, 4)),
        ),
        "segments": (
            "segment",
            tuple(Plan(value=n, size=BASE, segments=n) for n in (1, 5, 9, 13, 18)),
        ),
    }


def fit(values: Sequence[float], measured: Sequence[float]) -> Line:
    """Fit a straight line by least squares."""
    per_unit, at_zero = np.polyfit(values, measured, 1)
    apart = np.abs(np.polyval([per_unit, at_zero], values) - np.asarray(measured))
    return Line(per_unit=float(per_unit), at_zero=float(at_zero), worst=float(apart.max()))


def measure_axis(name: str, rounds: int) -> Axis:
    """Measure the points of one axis."""
    unit, planned = plans()[name]
    points = tuple(_measure_apart(plan, rounds) for plan in planned)
    values = [point.value for point in points]
    return Axis(
        name=name,
        unit=unit,
        points=points,
        cpu=fit(values, [point.cpu_s for point in points]),
        memory=fit(values, [point.peak_mb for point in points]),
    )


def _measure_apart(plan: Plan, rounds: int) -> Point:
    size = "x".join(map(str, plan.size))
    command = [sys.executable, "-m", "benchmarks.growth", "--point", size]
    command += ["--segments", str(plan.segments), "--rounds", str(rounds)]
    told = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return replace(Point(**json.loads(told.stdout)), value=plan.value, size=plan.size)


def measure_point(size: Size, segments: int, rounds: int) -> Point:
    """Measure one case in this process, which has done nothing before."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = make_case(folder / "small", WARM_UP)  # imports, tables
        WarmCase(small, folder / "out", made_model(1, 3), MadeEngine(small.regions)).run()
        made = _with_segments(make_case(folder / "case", size), segments)
        model, engine = made_model(size[3], segments), MadeEngine(made.regions)
        case = WarmCase(made, folder / "out", model, engine)
        first = [case.run() for _ in range(rounds)]
        return Point(
            value=0,
            size=size,
            segments=segments,
            cpu_s=round(min(one.whole.cpu_s for one in first), 4),
            peak_mb=round(first[0].whole.peak_mb, 2),
        )


def _with_segments(made: MadeCase, count: int) -> MadeCase:
    """Cut the same slab of the volume into so many masks, one beside the other."""
    shape = made.regions.shape[1:]
    regions: npt.NDArray[np.uint8] = np.zeros((count, *shape), np.uint8)
    edges = np.linspace(shape[0] // 4, shape[0] - shape[0] // 4, count + 1).astype(int)
    middle = [slice(size // 4, size - size // 4) for size in shape[1:]]
    for index in range(count):
        regions[index, edges[index] : edges[index + 1], middle[0], middle[1]] = 1
    return replace(made, regions=regions)


def describe(axis: Axis) -> str:
    """Write the table of one axis."""
    lines = [axis.name, f"  {'':>9} {'CPU s':>7} {'line':>7} {'MB':>7} line"]
    for point in axis.points:
        cpu = axis.cpu.at_zero + axis.cpu.per_unit * point.value
        memory = axis.memory.at_zero + axis.memory.per_unit * point.value
        lines.append(
            f"  {point.value:9.1f} {point.cpu_s:7.3f} {cpu:7.3f} {point.peak_mb:7.1f} {memory:.1f}"
        )
    lines.append(
        f"  {1000 * axis.cpu.per_unit:.2f} CPU-ms and {axis.memory.per_unit:.3f} MB for each "
        f"{axis.unit}, beside {axis.cpu.at_zero:.3f} CPU-s and {axis.memory.at_zero:.1f} MB; "
        f"the worst point lies {axis.cpu.worst:.3f} CPU-s and {axis.memory.worst:.1f} MB off"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--axes", nargs="+", choices=list(plans()), default=list(plans()))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--point", type=size_of, help="measure one case here, and print JSON")
    parser.add_argument("--segments", type=int, default=SEGMENTS, help="of --point")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    if options.point:
        print(json.dumps(asdict(measure_point(options.point, options.segments, options.rounds))))
        return 0
    axes = []
    for name in options.axes:
        axes.append(measure_axis(name, options.rounds))
        print(describe(axes[-1]), end="\n\n", flush=True)
    if options.json:
        body = {"base": BASE, "axes": [asdict(axis) for axis in axes]}
        options.json.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

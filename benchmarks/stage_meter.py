"""Counts wall seconds, CPU seconds and peak memory of each stage, and of whole programs."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil

from worker.adapters import memory
from worker.adapters.freed_arrays import give_back_freed
from worker.timings import Timings

REST = "rest"  # of a case: what no stage covers


class StageMeter(Timings):
    """Timings that also know the CPU seconds and the peak memory of each stage.

    CPU seconds are those of all threads of this process: a case runs in it alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cpu_seconds: dict[str, float] = {}
        self.peak_bytes: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what is done inside as a part of this stage."""
        memory.reset_peak()
        cpu = time.process_time()
        try:
            with super().stage(name):
                yield
        finally:
            spent = time.process_time() - cpu
            self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + spent
            self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), memory.peak_bytes())


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one thing took, once."""

    wall_s: float
    cpu_s: float
    peak_mb: float


@dataclass(frozen=True, kw_only=True)
class Round:
    """One case: its stages, and all of it."""

    stages: Mapping[str, Cost]
    whole: Cost


def held_bytes() -> int:
    """Give what this process holds between cases: the model, and nothing that a case left."""
    give_back_freed()
    return int(psutil.Process().memory_info().rss)


@contextmanager
def metered(base_bytes: int) -> Iterator[tuple[StageMeter, list[Round]]]:
    """Measure one case in this process; its round is in the list afterwards.

    Parameters
    ----------
    base_bytes : int
        What memory counts from (`held_bytes`).
    """
    meter, rounds = StageMeter(), list[Round]()
    wall, cpu = time.perf_counter(), time.process_time()
    yield meter, rounds
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    stages = {
        name: Cost(
            wall_s=seconds,
            cpu_s=meter.cpu_seconds[name],
            peak_mb=max(0, meter.peak_bytes[name] - base_bytes) / 1e6,
        )
        for name, seconds in meter.seconds.items()
    }
    rest_wall = wall - sum(cost.wall_s for cost in stages.values())
    rest_cpu = cpu - sum(cost.cpu_s for cost in stages.values())
    peak_mb = max(cost.peak_mb for cost in stages.values())
    stages[REST] = Cost(wall_s=max(0.0, rest_wall), cpu_s=max(0.0, rest_cpu), peak_mb=0.0)
    rounds.append(Round(stages=stages, whole=Cost(wall_s=wall, cpu_s=cpu, peak_mb=peak_mb)))


# A process begins with the peak of the one that started it, and a benchmark may hold gigabytes: so
# a small one starts the program, and writes down what it took.
_SMALL = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    file.write(f"{usage.ru_utime + usage.ru_stime} {usage.ru_maxrss}")
sys.exit(code)
"""


def run_program(
    command: Sequence[str], *, cwd: Path, environ: Mapping[str, str] | None = None
) -> Cost:
    """Run a program to its end; count it with all the children that it waited for.

    Raises
    ------
    RuntimeError
        It failed; with the end of what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        usage = Path(folder) / "usage"
        began = time.perf_counter()
        told = subprocess.run(
            [sys.executable, "-S", "-c", _SMALL, str(usage), *command],
            cwd=cwd,
            env={**os.environ, **(environ or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        wall_s = time.perf_counter() - began
        if told.returncode != 0:
            raise RuntimeError(
                f"{' '.join(command)} ended with {told.returncode}:\n{told.stdout[-3000:]}"
            )
        cpu_s, peak = map(float, usage.read_text(encoding="ascii").split())
    return Cost(wall_s=wall_s, cpu_s=cpu_s, peak_mb=peak * _RSS_UNIT / 1e6)


# Kilobytes on Linux, bytes on macOS (getrusage(2)).
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Median, least and most of several rounds."""

    name: str
    wall_s: float
    wall_least_s: float
    wall_most_s: float
    cpu_s: float
    cpu_least_s: float
    cpu_most_s: float
    peak_mb: float
    rounds: int = field(default=1)


def summarise(name: str, costs: Sequence[Cost]) -> Summary:
    """Give the medians of the costs of one thing."""
    walls, cpus = [cost.wall_s for cost in costs], [cost.cpu_s for cost in costs]
    return Summary(
        name=name,
        wall_s=round(median(walls), 3),
        wall_least_s=round(min(walls), 3),
        wall_most_s=round(max(walls), 3),
        cpu_s=round(median(cpus), 3),
        cpu_least_s=round(min(cpus), 3),
        cpu_most_s=round(max(cpus), 3),
        peak_mb=round(max(cost.peak_mb for cost in costs), 1),
        rounds=len(costs),
    )


def describe(title: str, summaries: Sequence[Summary]) -> str:
    """Write a table: a row each, the medians first, in brackets the least and the most."""
    lines = [title, f"  {'':26} {'CPU s':>7} {'':17} {'wall s':>7} {'':17} {'peak MB':>8}"]
    lines += [
        f"  {item.name:26} {item.cpu_s:7.2f} {_spread(item.cpu_least_s, item.cpu_most_s)} "
        f"{item.wall_s:7.2f} {_spread(item.wall_least_s, item.wall_most_s)} {item.peak_mb:8.0f}"
        for item in summaries
    ]
    return "\n".join(lines)


def _spread(least: float, most: float) -> str:
    return f"({least:.2f} to {most:.2f})".ljust(17)


def peak_of_this_process_mb() -> float:
    """Give the largest resident memory of this process since it began."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT / 1e6

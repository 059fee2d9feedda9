"""Counts from outside what another program takes: its process and all below it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.stage_meter import Cost


class ProcessTree:
    """A running program.

    Parameters
    ----------
    pid : int
        Its first process.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def measure(self, work: Callable[[], object]) -> Cost:
        """Count what the program takes while `work` has it do something.

        Memory counts above what the program held before, as in `stage_meter.metered`.
        """
        held, cpu = self.held_bytes(), self._cpu_s()
        self._reset_peaks()
        began = time.perf_counter()
        work()
        wall = time.perf_counter() - began
        return Cost(
            wall_s=wall,
            cpu_s=self._cpu_s() - cpu,
            peak_mb=max(0, self._peak_bytes() - held) / 1e6,
        )

    def held_bytes(self) -> int:
        """Give the resident memory of all its processes."""
        return sum(one.memory_info().rss for one in self._alive())

    def _alive(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def _cpu_s(self) -> float:
        # A process that ended is in the `children` times of the one that waited for it.
        times = [one.cpu_times() for one in self._alive()]
        return float(
            sum(one.user + one.system + one.children_user + one.children_system for one in times)
        )

    def _reset_peaks(self) -> None:
        for one in self._alive():
            Path(f"/proc/{one.pid}/clear_refs").write_text("5", encoding="ascii")  # proc(5)

    def _peak_bytes(self) -> int:
        return sum(_peak_of(one.pid) for one in self._alive())


def _peak_of(pid: int) -> int:
    """Give 0 for one that has ended: its peak is gone with it."""
    try:
        told = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = [line.split()[1] for line in told.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else 0

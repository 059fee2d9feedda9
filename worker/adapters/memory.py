"""How much memory this process used at most, a limit on it, and when its collector runs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Start counting anew, where the system can (Linux); else the peak is the process's."""
    with suppress(OSError):
        _CLEAR.write_text("5", encoding="ascii")  # proc(5): reset the peak resident set size


def peak_bytes() -> int:
    """Give the peak of resident memory since `reset_peak`, or since the process began."""
    peak = _status_bytes("VmHWM:")
    if peak is not None:
        return peak
    import psutil

    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))  # peak_wset is Windows's own


@contextmanager
def limited(extra_bytes: int) -> Iterator[None]:
    """Let the process take no more than this beyond what it has: then it raises MemoryError.

    Where the system can't (Windows, macOS), nothing is limited. The data segment is limited, not
    the address space, of which CUDA reserves more than there is memory. What the C library keeps
    of earlier cases (`worker.adapters.freed_arrays`) counts as had, and may be used again.
    """
    taken = _status_bytes("VmData:")
    if taken is None:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = taken + extra_bytes
    known = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([wanted, *known]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@contextmanager
def collector_paused() -> Iterator[None]:
    """Look for no cyclic garbage meanwhile: among a hundred thousand new objects that all stay.

    Python's collector goes through every object that is alive again and again while the headers of
    a series are made, and finds nothing (docs/performance.md).
    """
    was_running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_running:
            gc.enable()


def _status_bytes(name: str) -> int | None:
    """Read one line of this process's status; None where the system has none."""
    with suppress(OSError, ValueError, IndexError):
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return None

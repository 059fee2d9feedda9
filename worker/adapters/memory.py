"""How much memory this process used at most, a limit on it, and when it is given back."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# From malloc.h. The most that fits into the C int that mallopt(3) takes, and what glibc comes to by
# itself for a program that uses large arrays.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST_KEPT_BYTES, _USUALLY_KEPT_BYTES = 2**31 - 1, 2**25

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


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
    the address space, of which CUDA reserves more than there is memory.
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


class FreedArrays:
    """What the C library does with freed arrays: kept for the next case, where room is (glibc).

    A volume's temporary arrays are each some 100 MB. By default such memory goes back to the system
    when it is freed and comes again a page at a time, which costs more than the arithmetic on it.
    Kept, it lies in pieces, and a case takes up to twice as much (docs/performance.md).
    """

    def __init__(self) -> None:
        self._are_kept = False

    def after_case(self, peak_bytes: int) -> None:
        """Choose for the next case, by what the last one took (`peak_bytes`)."""
        mallopt = _libc("mallopt")
        if mallopt is None:
            return
        needed = peak_bytes if self._are_kept else 2 * peak_bytes
        self._are_kept = room_bytes() >= needed
        kept = _MOST_KEPT_BYTES if self._are_kept else _USUALLY_KEPT_BYTES
        mallopt(_M_MMAP_THRESHOLD, kept)
        mallopt(_M_TRIM_THRESHOLD, kept)


def room_bytes() -> int:
    """Give how much memory this process could have: what it holds, and what is free beside it."""
    import psutil

    held = int(psutil.Process().memory_info().rss)
    room = held + int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # a container's limit, which the system's figures ignore
        room = min(room, int(_CGROUP_LIMIT.read_text(encoding="ascii")))
    return room


def give_back_freed() -> None:
    """Give what is kept back to the system."""
    malloc_trim = _libc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _libc(name: str) -> Callable[..., int] | None:
    """Find a function that only glibc has; None elsewhere."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), name, None)


def _status_bytes(name: str) -> int | None:
    """Read one line of this process's status; None where the system has none."""
    with suppress(OSError, ValueError, IndexError):
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return None

"""What the C library does with freed arrays: given back to the system, or kept for the next case.

A volume's temporary arrays are each some 100 MB. glibc gives such memory back when it is freed, and
gets it again a page at a time, which costs more than the arithmetic on it (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

# From malloc.h. The most that fits into the C int that mallopt(3) takes, and what glibc comes to by
# itself for a program that uses large arrays.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST_BYTES, _USUAL_BYTES = 2**31 - 1, 2**25

_MEMBERSHIPS = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_VERSION_2_FILES = ("memory.max", "memory.current")
_VERSION_1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes")


class FreedArrays:
    """Lets glibc keep freed arrays between cases, while there is room for what that costs.

    Kept memory lies in pieces, so a case then takes up to twice as much. Elsewhere (Windows, macOS,
    musl, a glibc that refuses) nothing is kept.

    Parameters
    ----------
    sharers : int
        Processes of this computer that do the same, this one included.
    """

    def __init__(self, *, sharers: int = 1) -> None:
        self._sharers = sharers
        self._took_bytes = 0
        self._was_short = False
        self.are_kept = False

    def after_case(self, peak_bytes: int) -> None:
        """Choose for the next case, by the largest so far (`worker.adapters.memory.peak_bytes`)."""
        # What was kept counts in the peak, too.
        took = peak_bytes // 2 if self.are_kept else peak_bytes
        self._took_bytes = max(self._took_bytes, took)
        self._keep(is_wanted=not self._was_short and self._has_room())

    def after_shortage(self) -> None:
        """Keep nothing any more, in this process: memory ran out."""
        self._was_short = True
        self._keep(is_wanted=False)

    def _has_room(self) -> bool:
        free = free_bytes() / self._sharers
        held = int(psutil.Process().memory_info().rss)
        # The second also where much is held already: another program may have come.
        return held + free >= 2 * self._took_bytes and free >= self._took_bytes / 4

    def _keep(self, *, is_wanted: bool) -> None:
        mallopt = _libc("mallopt")
        if mallopt is None or is_wanted == self.are_kept:
            return
        kept_bytes = _MOST_BYTES if is_wanted else _USUAL_BYTES
        # Before 2.35 glibc takes no more than 32 MB, and answers 0.
        if mallopt(_M_MMAP_THRESHOLD, kept_bytes) != 1:
            return
        mallopt(_M_TRIM_THRESHOLD, kept_bytes)
        self.are_kept = is_wanted
        if not is_wanted:
            give_back_freed()


def give_back_freed() -> None:
    """Give all memory that nothing uses back to the system, where that can be asked for (glibc).

    What `FreedArrays` chose still holds: the next case's is kept again.
    """
    malloc_trim = _libc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def free_bytes() -> int:
    """Give how much memory is free: of the computer, or of what this process is allowed."""
    return min(int(psutil.virtual_memory().available), *_free_of_groups())


def _free_of_groups() -> Iterator[int]:
    """Give what is left of each limit of a container or a service's unit (cgroups(7))."""
    yield sys.maxsize
    with suppress(OSError):
        for line in _MEMBERSHIPS.read_text(encoding="utf-8", errors="replace").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                root, limit, usage = _CGROUPS, *_VERSION_2_FILES
            elif "memory" in controllers.split(","):
                root, limit, usage = _CGROUPS / "memory", *_VERSION_1_FILES
            else:
                continue
            group = root / path.strip("/")
            # In a container the group's own path may not be seen; its limits stand at the root.
            for folder in (group, *group.parents):
                with suppress(OSError, ValueError):  # "max" is no number
                    yield max(0, _number(folder / limit) - _number(folder / usage))
                if folder == root:
                    break


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def _libc(name: str) -> Callable[..., int] | None:
    """Find a function that only glibc has; None elsewhere."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), name, None)

"""Whether the work folder's disk has room for another case.

A worker without room would take one request after the other and fail each, until their attempts
are used up. So it asks for none, says so, and begins again by itself once there is room, or after a
while: another program may have filled the disk for a moment, and a quota does not show in what is
left.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from worker.core.errors import DiskFull

FreeBytes = Callable[[Path], int]
# So long does what was too little for one case keep the next one from being tried.
REMEMBERED_S = 600.0


def free_bytes(folder: Path) -> int:
    """Give the room left on a folder's disk, for this user."""
    return shutil.disk_usage(folder).free


class Room:
    """The room that the next case needs, as far as the last ones have shown.

    Parameters
    ----------
    folder : Path
        The work folder.
    least_bytes : int
        Below this nothing is begun.
    free : callable
        Gives the room left, in bytes.
    now : callable
        Gives seconds that only grow.
    """

    def __init__(
        self,
        folder: Path,
        least_bytes: int,
        *,
        free: FreeBytes = free_bytes,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._least = least_bytes
        self._free = free
        self._now = now
        self._at_start = 0
        self._too_little = -1
        self._until = 0.0

    def check(self) -> None:
        """Note how much room a case would begin with.

        Raises
        ------
        DiskFull
            It is less than `least_bytes`, or not more than was too little for a case in the last
            `REMEMBERED_S`.
        """
        free = self._free(self._folder)
        if self._now() >= self._until:
            self._too_little = -1
        if free < self._least or free <= self._too_little:
            needed = max(self._least, self._too_little + 1)
            raise DiskFull(
                f"The disk of {self._folder} has {free / 1e6:.0f} MB left and a case needs more "
                f"than {needed / 1e6:.0f} MB: free some space there. Until then this worker takes "
                "no request."
            )
        self._at_start = free

    def was_too_little(self) -> None:
        """Note that a case failed for want of room, so that the next one waits for more."""
        self._too_little = self._at_start
        self._until = self._now() + REMEMBERED_S

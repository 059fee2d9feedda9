"""Whether the work folder's disk has room for another case.

A worker without room would take one request after the other and fail each, until their attempts
are used up. So it asks for none, says so, and begins again by itself once there is room.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from worker.core.errors import DiskFull

FreeBytes = Callable[[Path], int]


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
    """

    def __init__(self, folder: Path, least_bytes: int, *, free: FreeBytes = free_bytes) -> None:
        self._folder = folder
        self._least = least_bytes
        self._free = free
        self._at_start = 0
        self._too_little = -1

    def check(self) -> None:
        """Note how much room a case would begin with.

        Raises
        ------
        DiskFull
            It is less than `least_bytes`, or not more than was too little for an earlier case.
        """
        free = self._free(self._folder)
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

"""One daemon for each work folder, kept so by a lock of the operating system.

The lock goes with the process, however it ends, so there is no stale lock to remove by hand.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import BufferedRandom
from pathlib import Path

from worker.core.errors import SettingsError

# The locked byte lies behind the text, since on Windows nobody else can read a locked one.
_LOCKED_AT = 1 << 20


class WorkFolderLock:
    """Held from `acquire` to `release`, or to the end of the process."""

    def __init__(self, work_dir: Path) -> None:
        self._path = work_dir / "daemon.lock"
        self._file: BufferedRandom | None = None

    def acquire(self) -> None:
        """Take the folder.

        Raises
        ------
        SettingsError
            Another process has it, and the sentence names it; or it can't be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(exist_ok=True)
            file = self._path.open("rb+")
        except OSError as error:
            raise SettingsError(
                f"The work folder {self._path.parent} can't be written ({error.strerror}): give "
                "this user the right to write there, or change worker.work_dir."
            ) from error
        if not _try_lock(file):
            owner = file.read(20).split(b"\n")[0].decode("ascii", "replace") or "unknown"
            file.close()
            raise SettingsError(
                f"The work folder {self._path.parent} is in use by another worker (process "
                f"{owner}): end that one, or give this one its own worker.work_dir."
            )
        self._file = file
        with suppress(OSError):
            # Only for the sentence above; on a full disk the lock holds without it.
            file.truncate(0)
            file.seek(0)
            file.write(f"{os.getpid()}\n".encode())
            file.flush()

    def release(self) -> None:
        """Give the folder back."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _try_lock(file: BufferedRandom) -> bool:
    if sys.platform == "win32":
        import msvcrt

        file.seek(_LOCKED_AT)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            file.seek(0)
        return True

    import fcntl

    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

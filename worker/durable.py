"""Writes that survive a power cut, and the digests by which files are known again.

A write is: temporary file, fsync, rename, fsync of the folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worker.core.errors import DiskFull

_IS_WINDOWS = os.name == "nt"
_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)


def write_json(path: Path, body: Mapping[str, Any]) -> None:
    """Put a JSON file in place whole, or leave what was there.

    Raises
    ------
    DiskFull
        Nothing was changed.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with told_plainly(path.parent):
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                json.dump(body, file, ensure_ascii=False, indent=1)
                file.flush()
                os.fsync(file.fileno())
            move(temporary, path)
    except DiskFull:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def told_plainly(folder: Path) -> Iterator[None]:
    """Turn the system's word for a full disk into a sentence that says which and what to do."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DiskFull(
            f"The disk of {folder} is full ({error.strerror}): free some space there, or give "
            "worker.work_dir another disk."
        ) from error


def is_disk_full(error: OSError) -> bool:
    """Tell whether there is no room: the disk, the quota or the file's allowed size is used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def remove_folder(path: Path) -> None:
    """Delete a folder and what is in it, as far as the system lets us."""
    shutil.rmtree(path, ignore_errors=True)


def move(source: Path, target: Path) -> None:
    """Rename a file or folder; on Windows a virus scanner may hold a new file for a moment."""
    for pause_s in _PAUSES_S if _IS_WINDOWS else ():
        try:
            source.replace(target)
        except PermissionError:
            time.sleep(pause_s)
        else:
            return
    source.replace(target)


def sync_file(path: Path) -> None:
    """Bring a file that somebody else wrote onto the disk."""
    # Windows flushes only a handle that may write.
    with told_plainly(path.parent), path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Bring the names in a folder onto the disk; Windows has no call for it, and does it."""
    if _IS_WINDOWS:
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> bytes:
    """Give the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def make_folder(path: Path) -> None:
    """Make a folder, and its parents, so that its name is on the disk."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with told_plainly(path.parent):
        path.mkdir(exist_ok=True)
    sync_folder(path.parent)

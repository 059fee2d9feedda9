"""Files that outlast a power cut, on a disk."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.core.files import File
from django.core.files.storage import FileSystemStorage

CHUNK_BYTES = 1 << 20


class DurableFileSystemStorage(FileSystemStorage):
    """A file system storage in which a name stands for a whole file, or for none.

    Django's own writes into the final name and leaves the bytes in the page cache. Here they go
    into a file beside it, to the disk, and only then under the name; the folders that had to be
    made go to the disk too, since a folder that is lost takes its files with it.
    """

    def _save(self, name: str, content: File[Any]) -> str:
        path = Path(self.path(name))
        made = _make_folders(path.parent, self.directory_permissions_mode)
        descriptor, draft = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in content.chunks(CHUNK_BYTES):
                    file.write(chunk)
                if self.file_permissions_mode is not None:
                    Path(draft).chmod(self.file_permissions_mode)
                file.flush()
                os.fsync(file.fileno())
            Path(draft).replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(draft).unlink()
            raise
        for folder in (path.parent, *made):
            _sync_folder(folder)
        return name


def _make_folders(folder: Path, mode: int | None) -> list[Path]:
    """Make a folder and those above it; return the folders that got a new entry."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o777 if mode is None else mode, exist_ok=True)
    return [one.parent for one in missing]


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows can't open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

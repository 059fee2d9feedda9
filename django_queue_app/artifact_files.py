"""Result files in Django's default storage: written once, never over another, and to stay."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django.core.files import File
from django.core.files.storage import default_storage


def keep_file(name: str, content: File[Any]) -> str:
    """Write a new file and make it outlast a power cut.

    Parameters
    ----------
    name : str
        Under which it is wanted, with forward slashes.
    content : File
        Read from its start.

    Returns
    -------
    str
        The name that it got in the storage; another one where `name` was taken.
    """
    storage_name = default_storage.save(name, content)
    try:
        path = Path(default_storage.path(storage_name))
    except NotImplementedError:  # a store without files of its own looks after that itself
        return storage_name
    _sync(path)
    if os.name == "posix":  # Windows can't open a folder
        _sync(path.parent)
    return storage_name


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

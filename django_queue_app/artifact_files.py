"""Result files in the site's storage: written once, never over another, and to stay."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import Any

from django.core.files import File

from django_queue_app import site_storage

# The database keeps names without it: what it means is decided here alone.
AREA = "artifacts"


def keep_file(folder: str, name: str, content: File[Any]) -> str:
    """Write a new file and make it outlast a power cut.

    Parameters
    ----------
    folder : str
        Where it belongs, with forward slashes: the request and the lease.
    name : str
        What it is called there.
    content : File
        Read from its start.

    Returns
    -------
    str
        The name to read it by; no other file ever has it, so two uploads at once can't write over
        each other, whatever the storage does with a name that it knows.

    Raises
    ------
    StorageUnavailable
    """
    kept = f"{folder}/{secrets.token_hex(6)}-{name}"
    site_storage.write_file(f"{AREA}/{kept}", content)
    return kept


def read_file(storage_name: str) -> bytes:
    """Return a kept file's bytes.

    Raises
    ------
    StorageUnavailable
    """
    return site_storage.read_file(f"{AREA}/{storage_name}")


def delete_file(storage_name: str) -> None:
    """Remove a kept file.

    Raises
    ------
    StorageUnavailable
    """
    site_storage.delete_file(f"{AREA}/{storage_name}")


def keep_only(folder: str, storage_names: Collection[str]) -> None:
    """Remove every file of a folder but these: what a crash left there, or what was replaced.

    Raises
    ------
    StorageUnavailable
    """
    for name in site_storage.list_files(f"{AREA}/{folder}"):
        if f"{folder}/{name}" not in storage_names:
            delete_file(f"{folder}/{name}")

"""Where the site's files lie: artifacts and the embedded DICOM store, on a disk or in a bucket.

Django's storage of the alias `segmentation`, if the settings have one; else the data folder. A
name is written once: it is either unique or made of its content's digest, so it doesn't matter
whether a storage overwrites.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files import File
from django.core.files.storage import FileSystemStorage, Storage, storages

from django_queue_app.conf import conf
from django_queue_app.durable_storage import DurableFileSystemStorage
from django_queue_app.errors import StorageUnavailable

ALIAS = "segmentation"


def is_configured() -> bool:
    """Whether the files lie elsewhere than in the data folder."""
    return ALIAS in settings.STORAGES


def site_storage() -> Storage:
    """Return the storage; without one in the settings, the data folder, for its owner only."""
    if is_configured():
        return storages[ALIAS]
    return DurableFileSystemStorage(
        location=conf.data_dir,
        file_permissions_mode=0o600,
        directory_permissions_mode=0o700,
        allow_overwrite=True,
    )


def write_file(name: str, content: File[Any]) -> None:
    """Keep a file under a name that no other content ever has; when it returns, it is to stay.

    Raises
    ------
    StorageUnavailable
    """
    with _refusing():
        kept = site_storage().save(name, content)
        if kept != name:  # a storage that never overwrites had it already
            site_storage().delete(kept)


def read_file(name: str) -> bytes:
    """Return a file's bytes.

    Raises
    ------
    StorageUnavailable
        It can't be read, or is gone.
    """
    with _refusing(), site_storage().open(name) as file:
        return bytes(file.read())


def delete_file(name: str) -> None:
    """Remove a file; one that isn't there is removed already.

    Raises
    ------
    StorageUnavailable
    """
    with _refusing():
        site_storage().delete(name)


def list_files(folder: str) -> list[str]:
    """Return the names of the files in a folder, none if there is no such folder.

    Raises
    ------
    StorageUnavailable
    """
    with _refusing(), suppress(FileNotFoundError):
        return list(site_storage().listdir(folder)[1])
    return []


def check() -> None:
    """Return if the storage answers.

    Raises
    ------
    StorageUnavailable
    """
    with _refusing():
        storage = site_storage()
        if isinstance(storage, FileSystemStorage):
            _check_folder(Path(storage.location))
        else:
            storage.listdir("none")  # unlike a look at one file, it tells a bucket that is missing


def _check_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for one in (folder, folder / "dicom", folder / "artifacts"):
        if one.exists() and not os.access(one, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(one)


@contextmanager
def _refusing() -> Iterator[None]:
    # Each kind of storage has errors of its own, without a common base but Exception: a disk's are
    # OSErrors, boto's are not. To the caller they are all the same: try again later.
    try:
        yield
    except Exception as error:
        raise StorageUnavailable from error

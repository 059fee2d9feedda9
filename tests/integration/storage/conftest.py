"""The site's storage, on a disk and in a bucket of a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.storage import storages

from reference_site import object_storage
from tests.support.object_store import ObjectStore


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    store = ObjectStore(tmp_path_factory.mktemp("moto"))
    yield store
    store.stop()


@dataclass(frozen=True)
class Place:
    """Where the site's files lie in this test."""

    kind: str
    folder: Path
    store: ObjectStore | None = None
    bucket: str = ""

    def names(self) -> list[str]:
        if self.store is not None:
            prefix = "site-1/"
            return [name.removeprefix(prefix) for name in self.store.names(self.bucket)]
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return [path.relative_to(self.folder).as_posix() for path in files]


@pytest.fixture
def disk(settings: Any, tmp_path: Path) -> Place:
    settings.SEGMENTATION_DATA_DIR = tmp_path / "site"
    return Place("disk", tmp_path / "site")


@pytest.fixture
def bucket(
    object_store: ObjectStore, settings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Place]:
    settings.SEGMENTATION_DATA_DIR = tmp_path / "site"
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid4().hex[:12]}"
    entry = object_storage.from_url(f"{object_store.make_bucket(bucket)}/site-1")
    settings.STORAGES = {**settings.STORAGES, "segmentation": entry}
    used: Any = storages["segmentation"]
    yield Place("bucket", tmp_path / "site", object_store, bucket)
    used.bucket.meta.client.close()


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found

"""What the site relies on of its storage, the same on a disk and in a bucket."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile

from django_queue_app import artifact_files, site_storage, tokens
from django_queue_app.errors import StorageUnavailable
from django_queue_app.models import ApiToken
from django_queue_app.pacs.embedded import EmbeddedPacs
from django_queue_app.pacs.port import PacsUnavailable
from reference_site import object_storage
from tests.integration.storage.conftest import Place
from tests.support.http_worker import HttpWorker, lease_of
from tests.support.small_series import mr_series


@pytest.mark.parametrize("name", ["mask.dcm", "mask.nii.gz", "preview.png", "report.json"])
def test_a_kept_file_is_read_back_byte_for_byte(place: Place, name: str) -> None:
    data = bytes(range(256)) * 5000
    kept = artifact_files.keep_file("request/lease", name, ContentFile(data))
    assert artifact_files.read_file(kept) == data
    assert place.names() == [f"artifacts/{kept}"]


def test_an_empty_file_is_a_file(place: Place) -> None:
    kept = artifact_files.keep_file("request/lease", "mask.dcm", ContentFile(b""))
    assert artifact_files.read_file(kept) == b""


def test_two_files_of_one_name_are_both_kept(place: Place) -> None:
    first = artifact_files.keep_file("request/lease", "mask.dcm", ContentFile(b"one"))
    second = artifact_files.keep_file("request/lease", "mask.dcm", ContentFile(b"two"))
    assert artifact_files.read_file(first) == b"one"
    artifact_files.delete_file(second)
    assert artifact_files.read_file(first) == b"one"


def test_what_is_deleted_is_gone_and_may_be_deleted_again(place: Place) -> None:
    kept = artifact_files.keep_file("request/lease", "mask.dcm", ContentFile(b"one"))
    artifact_files.delete_file(kept)
    artifact_files.delete_file(kept)
    assert place.names() == []
    with pytest.raises(StorageUnavailable):
        artifact_files.read_file(kept)


def test_no_name_leads_out_of_the_storage(place: Place) -> None:
    with pytest.raises(StorageUnavailable):
        artifact_files.read_file("../../secret.key")
    with pytest.raises(StorageUnavailable):
        site_storage.write_file("../outside", ContentFile(b"x"))


def test_a_storage_that_is_there_is_fine(place: Place) -> None:
    site_storage.check()


@pytest.mark.django_db
def test_the_embedded_store_keeps_its_instances_there(place: Place) -> None:
    data = mr_series()[0]
    stored = EmbeddedPacs().store_instance(data)
    assert EmbeddedPacs().read_instance(stored.instance_id) == data
    digest = hashlib.sha256(data).hexdigest()
    assert place.names() == [f"dicom/{digest[:2]}/{digest[2:4]}/{digest}.dcm"]


@pytest.mark.django_db
def test_an_instance_whose_row_was_lost_is_stored_again(place: Place) -> None:
    data = mr_series()[0]
    digest = hashlib.sha256(data).hexdigest()
    name = f"dicom/{digest[:2]}/{digest[2:4]}/{digest}.dcm"
    site_storage.write_file(name, ContentFile(data))
    assert EmbeddedPacs().store_instance(data).is_new
    assert place.names() == [name]


OF_NOTHING = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"


class _Calls:
    """A worker's calls, given to Django directly."""

    def __init__(self, client: Any, token: ApiToken, secret: str) -> None:
        self._client, self._secret = client, secret

    def get(self, path: str, **headers: str) -> Any:
        return self._client.get(
            f"/api/mri/segmentation{path}",
            headers={"Authorization": f"Bearer {self._secret}", **headers},
        )

    def post(self, path: str, json: Any = None, headers: Any = None) -> Any:
        return self._client.post(
            f"/api/mri/segmentation{path}",
            data=json,
            content_type="application/json",
            headers={"Authorization": f"Bearer {self._secret}", **(headers or {})},
        )

    def put(self, path: str, content: bytes, headers: Any) -> Any:
        return self._client.put(
            f"/api/mri/segmentation{path}",
            data=content,
            content_type="application/octet-stream",
            headers={"Authorization": f"Bearer {self._secret}", **headers},
        )


@pytest.fixture
def calls(client: Any, db: None) -> _Calls:
    token, secret = tokens.create(name="pc-1", kind="worker", lane="lab")
    return _Calls(client, token, secret)


def _store_series() -> str:
    return [EmbeddedPacs().store_instance(data).series_id for data in mr_series()].pop()


def _granted(calls: _Calls, series_id: str) -> dict[str, Any]:
    from django_queue_app import services

    services.file_request(
        main_series_id=series_id, series_ids=[series_id], lane="lab", requested_by="doctor"
    )
    answer = HttpWorker(calls, name="pc-1").claim()  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.content
    job: dict[str, Any] = json.loads(answer.content)
    return job


def test_pseudonymised_instances_are_served_whole_in_parts_and_by_etag(
    place: Place, calls: _Calls
) -> None:
    series_id = _store_series()
    job = _granted(calls, series_id)
    item = job["manifest"][0]["instances"][0]
    path = f"/requests/{job['request_id']}/instances/{item['id']}"
    whole = calls.get(path)
    assert hashlib.sha256(whole.content).hexdigest() == item["sha256"]
    part = calls.get(path, Range="bytes=100-199")
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    assert calls.get(path, **{"If-None-Match": whole.headers["ETag"]}).status_code == 304


def test_an_upload_that_is_refused_leaves_nothing(place: Place, calls: _Calls) -> None:
    series_id = _store_series()
    job = _granted(calls, series_id)
    before = place.names()
    answer = calls.put(
        f"/requests/{job['request_id']}/artifacts/mask.dcm",
        b"one",
        {
            **lease_of(job),
            "Content-Digest": "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
        },
    )
    assert answer.status_code == 422
    assert place.names() == before


# --- what goes wrong


def test_a_bucket_that_is_missing_is_said(bucket: Place, settings: Any) -> None:
    entry = object_storage.from_url("s3://nobody-made-this/site-1")
    settings.STORAGES = {**settings.STORAGES, "segmentation": entry}
    with pytest.raises(StorageUnavailable):
        site_storage.check()
    with pytest.raises(StorageUnavailable):
        artifact_files.keep_file("request/lease", "mask.dcm", ContentFile(b"one"))
    used: Any = site_storage.site_storage()
    used.bucket.meta.client.close()


@pytest.mark.django_db
def test_a_disk_that_can_not_be_written_is_said_and_leaves_no_part(
    disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("django_queue_app.durable_storage.os.fsync", full)
    with pytest.raises(StorageUnavailable):
        artifact_files.keep_file("request/lease", "mask.dcm", ContentFile(b"one"))
    with pytest.raises(PacsUnavailable):
        EmbeddedPacs().store_instance(mr_series()[0])
    assert disk.names() == []


def test_files_on_the_disk_are_for_the_site_alone(disk: Place) -> None:
    kept = artifact_files.keep_file("request/lease", "mask.dcm", ContentFile(b"one"))
    path: Path = disk.folder / "artifacts" / kept
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700

"""Downloads from a remote archive are what the claim has promised, or the request ends."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from django_queue_app import input_cache, preparation, served, services, tokens
from django_queue_app.models import SegmentationRequest, ServedDigest
from django_queue_app.pacs import get_pacs
from django_queue_app.pacs.port import PacsUnavailable, SeriesDescription
from tests.support import small_series
from tests.support.orthanc_server import OrthancServer
from tests.support.seg_files import encode, read

# Threads read for the requests, so what stands in the database must be there for them.
pytestmark = [pytest.mark.orthanc, pytest.mark.django_db(transaction=True)]

API = "/api/mri/segmentation"


@dataclass
class Case:
    """A request for a series in a real archive, and a worker that asks for it."""

    orthanc: OrthancServer
    request_id: uuid.UUID
    series_id: str
    files: list[bytes]
    secret: str
    client: Client

    @property
    def request(self) -> SegmentationRequest:
        return SegmentationRequest.objects.get(pk=self.request_id)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}

    def claim(self) -> Any:
        return self.client.post(
            f"{API}/pending-requests/claim/",
            {"worker": {"name": "pc-1", "version": "1.0"}},
            content_type="application/json",
            headers={**self.headers, "Idempotency-Key": str(uuid.uuid4())},
        )

    def granted(self) -> list[dict[str, Any]]:
        served.manifest(self.request, wait_s=60)  # a slow machine's claim would be put off
        answer = self.claim()
        assert answer.status_code == 200, answer.content
        (series,) = answer.json()["manifest"]
        return list(series["instances"])

    def download(self, instance_id: str) -> Any:
        path = f"{API}/requests/{self.request_id}/instances/{instance_id}"
        return self.client.get(path, headers=self.headers)

    def download_all(self, ids: list[str]) -> Any:
        return self.client.post(
            f"{API}/requests/{self.request_id}/instances/",
            {"instance_ids": ids},
            content_type="application/json",
            headers=self.headers,
        )

    def replace(self, instance_id: str) -> None:
        changed = read(self.orthanc.call("GET", f"/instances/{instance_id}/file").content)
        changed.PixelData = bytes(len(changed.PixelData))
        self.orthanc.call("DELETE", f"/instances/{instance_id}")
        self.orthanc.call("POST", "/instances", data=encode(changed))


@pytest.fixture(params=["orthanc", "dicomweb"])
def case(
    request: pytest.FixtureRequest,
    orthanc: OrthancServer,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Case:
    # Filing would begin to read in a thread, at a moment that no test knows.
    monkeypatch.setattr(preparation, "MOST_WAITING", 0)
    for name, value in orthanc.settings(request.param).items():
        setattr(settings, name, value)
    preparation.forget()
    files = small_series.mr_series()
    for data in files:
        orthanc.call("POST", "/instances", data=data)
    (summary,) = get_pacs().list_series()
    filed = services.file_request(
        main_series_id=summary.id, series_ids=[summary.id], lane="lab", requested_by="doctor"
    )
    _, secret = tokens.create(name="pc-1", kind="worker", lane="lab")
    return Case(orthanc, filed.request.pk, summary.id, files, secret, Client())


def test_downloads_are_what_the_claim_has_promised(case: Case) -> None:
    for one in case.granted():
        answer = case.download(one["id"])
        assert answer.status_code == 200
        assert len(answer.content) == one["bytes"]
        assert hashlib.sha256(answer.content).hexdigest() == one["sha256"]
        assert b"Phantom" not in answer.content


def test_several_at_once_are_what_the_claim_has_promised(case: Case) -> None:
    listed = case.granted()
    answer = case.download_all([one["id"] for one in listed])
    assert answer.status_code == 200
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        for member, one in zip(tar, listed, strict=True):
            file = tar.extractfile(member)
            assert file is not None
            assert (member.name, member.size) == (one["id"], one["bytes"])
            assert hashlib.sha256(file.read()).hexdigest() == one["sha256"]


def test_an_archive_that_is_slow_is_answered_with_what_came_in_time(
    case: Case, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SEGMENTATION_INPUT_CACHE_BYTES = 0
    first, *others = [one["id"] for one in case.granted()]
    monkeypatch.setattr("django_queue_app.api.inputs.MOST_BATCH_S", 0.0)
    answer = case.download_all([first, *others])
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        assert tar.getnames() == [first]


def test_an_image_replaced_in_between_ends_the_request_of_a_batch_too(
    case: Case, settings: Any
) -> None:
    settings.SEGMENTATION_INPUT_CACHE_BYTES = 0
    first, second, *_ = case.granted()
    case.replace(second["id"])
    answer = case.download_all([first["id"], second["id"]])
    assert (answer.status_code, answer.json()["code"]) == (410, "input_changed")
    assert (case.request.status, case.request.failure_code) == ("failed", "input_changed")


def test_the_archive_is_read_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = case.granted()

    def never(instance_id: str) -> bytes:
        raise AssertionError

    monkeypatch.setattr(get_pacs(), "read_instance", never)
    assert all(case.download(one["id"]).status_code == 200 for one in listed)


def test_without_a_cache_it_is_read_again_and_the_same(case: Case, settings: Any) -> None:
    settings.SEGMENTATION_INPUT_CACHE_BYTES = 0
    for one in case.granted():
        assert hashlib.sha256(case.download(one["id"]).content).hexdigest() == one["sha256"]
    assert input_cache.use().files == 0


def test_an_image_replaced_in_between_ends_the_request_and_the_next_gets_the_new_one(
    case: Case, settings: Any
) -> None:
    settings.SEGMENTATION_INPUT_CACHE_BYTES = 0
    first, second, *_ = case.granted()
    assert case.download(first["id"]).status_code == 200
    case.replace(second["id"])
    answer = case.download(second["id"])
    assert (answer.status_code, answer.json()["code"]) == (410, "input_changed")
    assert (case.request.status, case.request.failure_code) == ("failed", "input_changed")

    case.request_id = services.retry(request_id=case.request_id, actor="doctor").pk
    again = {one["id"]: one["sha256"] for one in case.granted()}
    assert again[first["id"]] == first["sha256"]
    assert again[second["id"]] != second["sha256"]
    content = case.download(second["id"]).content
    assert hashlib.sha256(content).hexdigest() == again[second["id"]]


def test_an_image_deleted_in_between_ends_the_request(case: Case, settings: Any) -> None:
    settings.SEGMENTATION_INPUT_CACHE_BYTES = 0
    first, *_ = case.granted()
    case.orthanc.call("DELETE", f"/instances/{first['id']}")
    answer = case.download(first["id"])
    assert (answer.status_code, answer.json()["code"]) == (410, "input_vanished")
    assert (case.request.status, case.request.failure_code) == ("failed", "input_vanished")


def test_a_series_deleted_before_the_claim_fails_plainly(case: Case) -> None:
    case.orthanc.call("DELETE", f"/series/{case.series_id}")
    get_pacs()._described.clear()  # type: ignore[attr-defined]
    assert case.claim().status_code == 204
    assert (case.request.status, case.request.failure_code) == ("failed", "input_vanished")


def test_an_archive_that_is_away_leaves_the_request_unharmed(case: Case, settings: Any) -> None:
    url = settings.SEGMENTATION_PACS_URL
    settings.SEGMENTATION_PACS_URL = "http://127.0.0.1:9"
    answer = case.claim()
    assert (answer.status_code, answer.json()["code"]) == (503, "pacs_unavailable")
    assert (case.request.status, case.request.attempt_count) == ("pending", 0)
    settings.SEGMENTATION_PACS_URL = url
    assert case.granted()


def test_a_series_that_takes_long_is_read_on_and_claimed_later(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = threading.Event()
    read_series = get_pacs().read_series

    def slowly(series: SeriesDescription) -> Any:
        assert may_go_on.wait(60)
        return read_series(series)

    monkeypatch.setattr(get_pacs(), "read_series", slowly)
    with pytest.raises(served.InputsNotReady):
        served.manifest(case.request, wait_s=0)
    may_go_on.set()
    assert len(served.manifest(case.request, wait_s=60)[0]["instances"]) == small_series.SLICES


def test_filing_begins_to_read(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "MOST_WAITING", 8)
    services.file_request(
        main_series_id=case.series_id,
        series_ids=[case.series_id],
        lane="lab",
        requested_by="doctor",
        is_forced=True,
    )
    end = time.monotonic() + 60
    while ServedDigest.objects.count() < small_series.SLICES:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_series_that_grew_is_listed_whole(case: Case) -> None:
    served.manifest(case.request, wait_s=60)
    dataset = read(case.files[-1])
    more = small_series.mr_instance(
        small_series.SLICES,
        StudyInstanceUID=dataset.StudyInstanceUID,
        SeriesInstanceUID=dataset.SeriesInstanceUID,
        FrameOfReferenceUID=dataset.FrameOfReferenceUID,
    )
    get_pacs().store_instance(more)
    (series,) = served.manifest(case.request, wait_s=60)
    assert len(series["instances"]) == small_series.SLICES + 1


def test_a_break_while_reading_is_an_error_now_and_a_new_try_later(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(series: Any) -> Any:
        raise PacsUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(get_pacs(), "read_series", breaks)
        with pytest.raises(PacsUnavailable):
            served.manifest(case.request, wait_s=60)
    assert served.manifest(case.request, wait_s=60)


def test_the_cache_is_bounded_and_wiped_on_demand(
    site_folder: Path, settings: Any, orthanc: OrthancServer
) -> None:
    files = {
        hashlib.sha256(data).hexdigest(): data for data in (b"a" * 900, b"b" * 900, b"c" * 900)
    }
    for sha256, data in files.items():
        input_cache.keep(sha256, data)
    assert input_cache.use() == input_cache.Use(files=3, bytes=2700)
    settings.SEGMENTATION_INPUT_CACHE_BYTES = 2000
    input_cache.trim()
    assert input_cache.use() == input_cache.Use(files=2, bytes=1800)
    settings.SEGMENTATION_INPUT_CACHE_HOURS = timedelta(seconds=-60) / timedelta(hours=1)
    input_cache.trim()
    assert input_cache.use().files == 0
    input_cache.keep(*next(iter(files.items())))
    out = io.StringIO()
    call_command("input_cache", "clear", stdout=out)
    assert out.getvalue() == "1 files removed, 900 bytes\n"


def test_a_file_that_was_damaged_is_as_good_as_none(site_folder: Path) -> None:
    sha256 = hashlib.sha256(b"whole").hexdigest()
    input_cache.keep(sha256, b"whole")
    (path,) = (site_folder / "cache").rglob("*.dcm")
    path.write_bytes(b"whale")
    assert input_cache.get(sha256) is None
    assert not input_cache.has(sha256)

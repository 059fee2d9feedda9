from __future__ import annotations

import gzip
import hashlib
import io
import json
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import nibabel as nib
import numpy as np
import pytest
from django.core.files.base import ContentFile
from django.utils import timezone

from django_queue_app import (
    artifact_files,
    delivery,
    health,
    served,
    services,
    storing,
    tokens,
)
from django_queue_app.api.encode import result_of
from django_queue_app.errors import ArtifactMissing, ServiceError
from django_queue_app.models import ApiToken, SegmentationRequest
from django_queue_app.pacs import get_pacs
from django_queue_app.pacs.embedded import EmbeddedPacs
from django_queue_app.pacs.port import ConflictingInstance, PacsUnavailable, StoreRefused
from tests.support.dicom_phantoms import OBLIQUE, Phantom, lesion, write_series
from tests.support.seg_files import make_seg, read

pytestmark = pytest.mark.django_db

PATIENT = "Phantom-Patient-7"


@dataclass(frozen=True, kw_only=True)
class Held:
    """A request that a worker holds, with its inputs as the worker sees them."""

    request_id: UUID
    lease_id: UUID
    token: ApiToken
    inputs: list[bytes]

    @property
    def request(self) -> SegmentationRequest:
        return SegmentationRequest.objects.get(pk=self.request_id)

    def deliver(self, name: str, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        services.record_artifact(
            request_id=self.request_id,
            lease_id=self.lease_id,
            token=self.token,
            name=name,
            sha256=sha256,
            size_bytes=len(data),
            storage_name=artifact_files.keep_file(str(self.lease_id), name, ContentFile(data)),
        )
        return sha256

    def complete(self, artifacts: dict[str, str]) -> str:
        return services.complete(
            request_id=self.request_id,
            lease_id=self.lease_id,
            token=self.token,
            result={"tumor_detected": True},
            artifacts=artifacts,
            finalised=delivery.finalise(self.request, self.lease_id),
        )


def mask() -> np.ndarray:
    return np.moveaxis(lesion(OBLIQUE), 2, 0).swapaxes(1, 2)


def nifti() -> bytes:
    return gzip.compress(nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.eye(4)).to_bytes())


@pytest.fixture
def held(tmp_path: Path) -> Held:
    return hold(tmp_path)


def hold(tmp_path: Path) -> Held:
    """Store a series, file a request for it and claim it."""
    files = write_series(
        tmp_path / "main",
        Phantom(grid=OBLIQUE, order="shuffled"),
        edit=lambda _, dataset: setattr(dataset, "PatientID", PATIENT),
    )
    series_id = [get_pacs().store_instance(path.read_bytes()).series_id for path in files][-1]
    services.file_request(
        main_series_id=series_id, series_ids=[series_id], lane="lab", requested_by="doctor"
    )
    token, _ = tokens.create(name="lab-1", kind="worker", lane="lab")
    lease_id = uuid.uuid4()
    worker = services.WorkerInfo(name="lab-1", version="1", device="cpu", models=())
    request = services.claim(token=token, lease_id=lease_id, worker=worker)
    assert request is not None
    listed = served.manifest(request, wait_s=60)[0]["instances"]
    inputs = [served.read_served(one["id"]).data for one in listed]
    for one, data in zip(listed, inputs, strict=True):
        assert (one["bytes"], one["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    return Held(request_id=request.pk, lease_id=lease_id, token=token, inputs=inputs)


def test_a_delivered_mask_lies_in_the_archive_under_its_patient(held: Held) -> None:
    assert all(PATIENT.encode() not in data for data in held.inputs)
    seg = make_seg(held.inputs, mask())
    assert PATIENT.encode() not in seg
    report = {"series": str(read(held.inputs[0]).SeriesInstanceUID)}
    artifacts = {
        "mask.dcm": held.deliver("mask.dcm", seg),
        "mask.nii.gz": held.deliver("mask.nii.gz", nifti()),
        "report.json": held.deliver("report.json", json.dumps(report).encode()),
    }
    assert held.complete(artifacts) == "accepted"
    delivery.store_in_pacs(held.request)
    delivery.store_in_pacs(held.request)  # again changes nothing
    request = held.request
    assert request.is_saved_to_pacs
    stored = read(get_pacs().read_instance(request.seg_instance_id))
    assert stored.PatientID == PATIENT
    series = get_pacs().describe_series(get_pacs().series_of_instance(request.seg_instance_id))
    main = get_pacs().describe_series(request.main_series_id)
    assert series.summary.study_id == main.summary.study_id
    final = request.visible_artifacts().get(name="report.json").served_storage_name
    assert json.loads(artifact_files.read_file(final)) == {"series": main.summary.series_uid}


def test_a_mask_that_the_archive_could_not_take_is_stored_later(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.complete({"mask.dcm": held.deliver("mask.dcm", make_seg(held.inputs, mask()))})

    def away(self: EmbeddedPacs, data: bytes) -> None:
        raise PacsUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(EmbeddedPacs, "store_instance", away)
        assert storing.retry_due() == 0
        assert not held.request.is_saved_to_pacs
    assert storing.retry_due() == 0  # the pause
    later = timezone.now() + timedelta(seconds=storing.FIRST_PAUSE_S)
    assert storing.retry_due(now=later) == 1
    assert held.request.is_saved_to_pacs
    assert storing.retry_due(now=later + timedelta(days=1)) == 0


def test_one_of_several_processes_stores_a_mask(held: Held) -> None:
    held.complete({"mask.dcm": held.deliver("mask.dcm", make_seg(held.inputs, mask()))})
    now = timezone.now()
    assert storing._take(held.request_id, now)
    assert not storing._take(held.request_id, now)
    assert not storing.store(held.request_id)
    # The one that took it has died.
    assert storing.store(held.request_id, now=now + storing.TAKEN_FOR)


@pytest.mark.parametrize("error", [StoreRefused, ConflictingInstance])
def test_a_refusal_for_good_is_told_and_not_tried_again_until_somebody_asks(
    held: Held, monkeypatch: pytest.MonkeyPatch, error: type[ServiceError]
) -> None:
    held.complete({"mask.dcm": held.deliver("mask.dcm", make_seg(held.inputs, mask()))})

    def refuses(self: EmbeddedPacs, data: bytes) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(EmbeddedPacs, "store_instance", refuses)
        assert not storing.store(held.request_id)
    later = timezone.now() + timedelta(days=30)
    assert storing.retry_due(now=later) == 0
    assert storing.is_refused(held.request)
    (warning,) = result_of(held.request)["warnings"]
    assert error.code in warning
    problem = {one.code: one for one in health.look().problems}["masks_refused_by_pacs"]
    assert error.code in problem.en
    assert storing.retry_all() == 1
    assert held.request.is_saved_to_pacs
    assert result_of(held.request)["warnings"] == []


def test_pauses_between_tries_grow_and_stay_bearable() -> None:
    pauses = [storing.pause_after(count).total_seconds() for count in range(1, 12)]
    assert pauses[:3] == [15, 30, 60]
    assert pauses == sorted(pauses)
    assert pauses[-1] == storing.LONGEST_PAUSE_S


def test_without_a_mask_there_is_nothing_to_finalise(held: Held) -> None:
    with pytest.raises(ArtifactMissing):
        delivery.finalise(held.request, held.lease_id)


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("mask.dcm", b"nonsense", "mask_unreadable"),
        ("mask.nii.gz", b"nonsense", "volume_unreadable"),
        ("mask.nii.gz", gzip.compress(b"x" * 400, mtime=0), "volume_unreadable"),
        ("mask.nii.gz", gzip.compress(b"", mtime=0), "volume_unreadable"),
        ("report.json", b"{", "report_unreadable"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(
    held: Held, name: str, data: bytes, code: str
) -> None:
    held.deliver("mask.dcm", make_seg(held.inputs, mask()))
    held.deliver(name, data)
    with pytest.raises(delivery.MaskUnreadable) as caught:
        delivery.finalise(held.request, held.lease_id)
    assert (caught.value.code, caught.value.http_status) == (code, 422)


def test_originals_are_served_only_when_told_to(held: Held, settings: object) -> None:
    settings.SEGMENTATION_DEIDENTIFY = False  # type: ignore[attr-defined]
    (series,) = served.manifest(held.request)
    data = served.read_served(series["instances"][0]["id"])
    assert PATIENT.encode() in data.data
    assert series["instances"][0]["sha256"] == data.sha256
    assert data.data == get_pacs().read_instance(series["instances"][0]["id"])


def test_another_key_gives_other_digests(held: Held, settings: object) -> None:
    before = served.manifest(held.request)
    settings.SEGMENTATION_PSEUDONYM_KEY = "another key of at least 32 characters"  # type: ignore[attr-defined]
    after = served.manifest(held.request)
    assert before[0]["instances"][0]["sha256"] != after[0]["instances"][0]["sha256"]
    assert io.BytesIO(served.read_served(after[0]["instances"][0]["id"]).data).read()[128:132] == (
        b"DICM"
    )

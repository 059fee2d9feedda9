from __future__ import annotations

import gzip
import hashlib
import io
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import nibabel as nib
import numpy as np
import pytest
from django.core.files.base import ContentFile

from django_queue_app import artifact_files, delivery, served, services, tokens
from django_queue_app.errors import ArtifactMissing
from django_queue_app.models import ApiToken, SegmentationRequest
from django_queue_app.pacs import get_pacs
from django_queue_app.pacs.embedded import EmbeddedPacs
from django_queue_app.pacs.port import PacsUnavailable
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
    listed = served.manifest(request)[0]["instances"]
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
        assert delivery.retry_pending_stores() == 0
        assert not held.request.is_saved_to_pacs
    assert delivery.retry_pending_stores() == 1
    assert held.request.is_saved_to_pacs
    assert delivery.retry_pending_stores() == 0


def test_without_a_mask_there_is_nothing_to_finalise(held: Held) -> None:
    with pytest.raises(ArtifactMissing):
        delivery.finalise(held.request, held.lease_id)


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("mask.dcm", b"nonsense", "mask_unreadable"),
        ("mask.nii.gz", b"nonsense", "volume_unreadable"),
        ("mask.nii.gz", gzip.compress(b"x" * 400), "volume_unreadable"),
        ("mask.nii.gz", gzip.compress(b""), "volume_unreadable"),
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

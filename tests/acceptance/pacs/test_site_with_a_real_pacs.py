"""A site whose images lie in a real Orthanc: from the page's call to the SEG in the archive."""

from __future__ import annotations

import base64
import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from PIL import Image

from demo.children import Children
from demo.front_end import FrontEnd
from demo.place import CHANNELS, MODEL, Access, Place
from demo.sample import write_sample
from tests.support.orthanc_server import OrthancServer

REPOSITORY = Path(__file__).resolve().parents[3]
LONGEST_S = 600.0
PATIENT = {"PatientName": "홍^길동", "PatientID": "환자-7", "PatientBirthDate": "19700102"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.orthanc,
    pytest.mark.timeout(3 * LONGEST_S),
    pytest.mark.skipif(os.name == "nt", reason="needs Debian's Orthanc"),
]


class PacsPlace(Place):
    """A demonstration's folder whose site reads from and stores to another archive."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        super().__init__(REPOSITORY, folder)
        self.settings = settings

    def _environ(self, **more: str) -> dict[str, str]:
        return super()._environ(**self.settings, **more)


@dataclass
class Running:
    """The site, and what was uploaded to its archive."""

    place: PacsPlace
    front_end: FrontEnd
    originals: list[pydicom.Dataset]
    address: str
    token: str

    def get(self, path: str) -> dict[str, Any]:
        answer = requests.get(
            f"{self.address}/api/mri/segmentation/{path}",
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=60,
        )
        answer.raise_for_status()
        return answer.json()

    def wait_until_saved(self, request_id: str) -> dict[str, Any]:
        end = time.monotonic() + LONGEST_S
        while True:
            result = self.get(f"status/{request_id}/")["result"]
            if result["saved_to_orthanc"]:
                return result
            assert time.monotonic() < end, result
            time.sleep(0.2)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Draw the sample, of a patient with a name."""
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    files = []
    for path in sorted(folder.rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        dataset.SpecificCharacterSet = "ISO_IR 192"
        for name, value in PATIENT.items():
            setattr(dataset, name, value)
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        files.append(buffer.getvalue())
    return files


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[PacsPlace, Access]:
    """Prepare a site's database and tokens, once for both archives."""
    place = PacsPlace(tmp_path_factory.mktemp("site"), {})
    place.make()
    place.prepare("a password of the test")
    return place, place.make_access()


@pytest.fixture(params=["orthanc", "dicomweb"])
def running(
    request: pytest.FixtureRequest,
    orthanc: OrthancServer,
    sample: list[bytes],
    prepared: tuple[PacsPlace, Access],
) -> Iterator[Running]:
    for data in sample:
        orthanc.call("POST", "/instances", data=data)
    place, access = prepared
    place.settings = orthanc.settings(request.param)
    children = Children(place.state)
    try:
        _, address = place.start_site(children)
        front_end = FrontEnd(address, access.user_token)
        end = time.monotonic() + LONGEST_S
        while not front_end.is_up():
            assert time.monotonic() < end
            time.sleep(0.1)
        place.start_worker(children, address, access.worker_token)
        originals = [pydicom.dcmread(io.BytesIO(data)) for data in sample]
        yield Running(place, front_end, originals, address, access.user_token)
    finally:
        children.stop()


def follow(running: Running, series_ids: list[str]) -> dict[str, Any]:
    request_id = running.front_end.file_request(series_ids, MODEL)
    *_, last = running.front_end.follow(request_id, timeout_s=LONGEST_S, check=lambda: None)
    assert last.status == "completed", last.body["failure"]
    return running.wait_until_saved(request_id)


def test_a_mask_is_made_from_the_archive_and_lies_in_it(
    running: Running, orthanc: OrthancServer
) -> None:
    listed = {one["sequence_type"]: one for one in running.front_end.list_series()}
    assert set(listed) == set(CHANNELS)
    assert running.get("health/")["pacs_reachable"]
    before = set(orthanc.ids("instances"))

    result = follow(running, [listed[name]["id"] for name in CHANNELS])

    assert result["saved_to_pacs"]
    assert result["tumor_detected"]
    (seg_id,) = set(orthanc.ids("instances")) - before
    assert result["seg_instance_id"] == seg_id
    seg = pydicom.dcmread(io.BytesIO(orthanc.call("GET", f"/instances/{seg_id}/file").content))
    main = [
        one
        for one in running.originals
        if one.SeriesInstanceUID == listed[CHANNELS[0]]["series_uid"]
    ]
    for name in (*PATIENT, "StudyInstanceUID", "FrameOfReferenceUID"):
        assert str(seg[name].value) == str(main[0][name].value)
    assert_references_resolve(seg, orthanc)
    assert_frames_are_right(running.get(f"instances/{seg_id}/frames/"), seg, main)
    assert_no_name_beside_the_worker(running.place)


def assert_references_resolve(seg: pydicom.Dataset, orthanc: OrthancServer) -> None:
    referenced = {
        str(item.ReferencedSOPInstanceUID)
        for series in seg.ReferencedSeriesSequence
        for item in series.ReferencedInstanceSequence
    }
    assert referenced
    for uid in referenced:
        (found,) = orthanc.call("POST", "/tools/lookup", data=uid).json()
        assert found["Type"] == "Instance"


def assert_frames_are_right(
    body: dict[str, Any], seg: pydicom.Dataset, main: list[pydicom.Dataset]
) -> None:
    """Compare the pictures with the SEG's own frames, slice by slice along the normal."""
    ordered = sorted(main, key=lambda one: float(np.dot(one.ImagePositionPatient, _normal(one))))
    expected = {str(one.SOPInstanceUID): np.zeros((seg.Rows, seg.Columns), bool) for one in ordered}
    for groups, pixels in zip(
        seg.PerFrameFunctionalGroupsSequence,
        np.atleast_3d(seg.pixel_array).reshape(-1, seg.Rows, seg.Columns),
        strict=True,
    ):
        for source in groups.DerivationImageSequence[0].SourceImageSequence:
            if str(source.ReferencedSOPInstanceUID) in expected:
                expected[str(source.ReferencedSOPInstanceUID)] |= pixels > 0
    assert body["num_frames"] == len(ordered)
    for frame, one in zip(body["frames"], ordered, strict=True):
        picture = Image.open(io.BytesIO(base64.b64decode(frame["mask_base64"])))
        assert np.array_equal(np.asarray(picture) > 0, expected[str(one.SOPInstanceUID)])
    assert any(mask.any() for mask in expected.values())


def _normal(one: pydicom.Dataset) -> np.ndarray:
    cosines = np.array(one.ImageOrientationPatient, float)
    return np.cross(cosines[:3], cosines[3:])


def assert_no_name_beside_the_worker(place: PacsPlace) -> None:
    looked_at = [path for path in (place.folder / "worker").rglob("*") if path.is_file()]
    looked_at.append(place.logs / "worker.log")
    for path in looked_at:
        content = path.read_bytes()
        for value in PATIENT.values():
            assert value.encode() not in content, path

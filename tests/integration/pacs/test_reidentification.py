from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from django_queue_app.pacs.embedded import EmbeddedPacs
from django_queue_app.pacs.port import SeriesDescription
from django_queue_app.privacy.pseudonymise import pseudonymise
from django_queue_app.privacy.pseudonyms import Pseudonyms
from django_queue_app.privacy.reidentify import (
    MaskRefused,
    Vault,
    build_vault,
    reidentify_json,
    reidentify_seg,
)
from tests.support.dicom_phantoms import OBLIQUE, Phantom, lesion, write_series
from tests.support.seg_files import count_dciodvfy_errors, encode, make_seg, read

pytestmark = pytest.mark.django_db

KEY = Pseudonyms(key=b"a key of the test")


@dataclass(frozen=True, kw_only=True)
class Case:
    """Two series in the archive, and what a worker sees of them."""

    main: SeriesDescription
    other: SeriesDescription
    vault: Vault
    originals: list[bytes]
    served: list[bytes]
    served_other: list[bytes]

    def mask(self) -> np.ndarray:
        return np.moveaxis(lesion(OBLIQUE), 2, 0).swapaxes(1, 2)


def name_patient(_: int, dataset: Dataset) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName, dataset.PatientID = "김^철수", "환자-7"
    dataset.PatientBirthDate, dataset.PatientSex = "19820101", "M"
    dataset.StudyDate, dataset.StudyTime = "20240229", "101112"
    dataset.AccessionNumber, dataset.StudyID = "ACC77", "S1"
    dataset.StudyDescription, dataset.InstitutionName = "뇌 MRI", "Seoul Hospital"


@pytest.fixture
def case(tmp_path: Path) -> Case:
    pacs = EmbeddedPacs()
    described = []
    for name in ("main", "other"):
        phantom = Phantom(grid=OBLIQUE, series=name, order="shuffled")
        files = write_series(tmp_path / name, phantom, edit=name_patient)
        series_id = [pacs.store_instance(path.read_bytes()).series_id for path in files][-1]
        described.append(pacs.describe_series(series_id))
    main, other = described
    originals = [pacs.read_instance(one.id) for one in main.instances]
    return Case(
        main=main,
        other=other,
        vault=build_vault(main, [other], [KEY]),
        originals=originals,
        served=[pseudonymise(data, KEY) for data in originals],
        served_other=[pseudonymise(pacs.read_instance(one.id), KEY) for one in other.instances],
    )


def test_a_mask_comes_back_to_its_patient_and_every_reference_resolves(case: Case) -> None:
    seg = make_seg(case.served, case.mask(), further=case.served_other)
    for word in ("환자-7", "김", "ACC77", "Seoul", "20240229"):
        assert word.encode() not in seg
    mask = reidentify_seg(seg, case.vault, case.originals[0])
    restored, original = read(mask.data), read(case.originals[0])
    for name in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "StudyID",
        "StudyInstanceUID",
        "StudyDescription",
        "FrameOfReferenceUID",
    ):
        assert restored[name].value == original[name].value, name
    assert "PatientIdentityRemoved" not in restored
    assert "LongitudinalTemporalInformationModified" not in restored
    originals = {one.sop_uid for one in (*case.main.instances, *case.other.instances)}
    referenced = set(_references(restored))
    assert referenced == originals
    assert not [uid for uid in case.vault.originals if uid not in originals and uid in referenced]
    assert restored.SOPInstanceUID == read(seg).SOPInstanceUID


def test_it_joins_the_study_of_its_series_in_the_archive(case: Case) -> None:
    seg = make_seg(case.served, case.mask())
    mask = reidentify_seg(seg, case.vault, case.originals[0])
    stored = EmbeddedPacs().store_instance(mask.data)
    assert (stored.instance_id, stored.series_id) == (mask.instance_id, mask.series_id)
    summary = EmbeddedPacs().describe_series(stored.series_id).summary
    assert summary.study_id == case.main.summary.study_id
    assert summary.patient_id == case.main.summary.patient_id


def test_pixels_and_positions_are_untouched(case: Case) -> None:
    seg = make_seg(case.served, case.mask())
    restored = read(reidentify_seg(seg, case.vault, case.originals[0]).data)
    assert restored.PixelData == read(seg).PixelData
    assert [
        one.PlanePositionSequence[0].ImagePositionPatient
        for one in restored.PerFrameFunctionalGroupsSequence
    ] == [
        one.PlanePositionSequence[0].ImagePositionPatient
        for one in read(seg).PerFrameFunctionalGroupsSequence
    ]


@pytest.mark.dicom_validators
@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (dicom3tools) is missing")
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_a_mask_that_came_back_has_no_errors(case: Case, kind: str, tmp_path: Path) -> None:
    mask = case.mask() if kind == "BINARY" else (case.mask() > 0).astype(np.float32)
    seg = make_seg(case.served, mask, kind=kind, further=case.served_other)
    assert count_dciodvfy_errors(seg, tmp_path) == []
    restored = reidentify_seg(seg, case.vault, case.originals[0])
    assert count_dciodvfy_errors(restored.data, tmp_path) == []


def test_without_pseudonyms_a_mask_passes_as_it_is(case: Case) -> None:
    vault = build_vault(case.main, [case.other], [], accepts_originals=True)
    seg = make_seg(case.originals, case.mask())
    restored = read(reidentify_seg(seg, vault, case.originals[0]).data)
    assert str(restored.PatientName) == "김^철수"
    assert set(_references(restored)) == {one.sop_uid for one in case.main.instances}


def _set(name: str, value: object) -> Callable[[Dataset], None]:
    return lambda seg: setattr(seg, name, value)


def _foreign_reference(seg: Dataset) -> None:
    group = seg.PerFrameFunctionalGroupsSequence[0]
    source = group.DerivationImageSequence[0].SourceImageSequence[0]
    source.ReferencedSOPInstanceUID = "2.25.123"


def _drop_frame(seg: Dataset) -> None:
    seg.PerFrameFunctionalGroupsSequence = seg.PerFrameFunctionalGroupsSequence[1:]


def _shorten(seg: Dataset) -> None:
    seg.PixelData = seg.PixelData[:-10]


def _lengthen(seg: Dataset) -> None:
    seg.PixelData = seg.PixelData + bytes(10)


def _drop_pixels(seg: Dataset) -> None:
    del seg.PixelData


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_foreign_reference, "foreign_reference"),
        (_set("StudyInstanceUID", "2.25.9"), "foreign_reference"),
        (_set("FrameOfReferenceUID", "2.25.9"), "foreign_reference"),
        (_set("SOPClassUID", "1.2.840.10008.5.1.4.1.1.4"), "not_a_segmentation"),
        (_set("NumberOfFrames", "3"), "mask_inconsistent"),
        (_set("NumberOfFrames", "9999999"), "mask_inconsistent"),
        (_drop_frame, "mask_inconsistent"),
        (_lengthen, "mask_inconsistent"),
        (_drop_pixels, "mask_inconsistent"),
        (_shorten, "mask_inconsistent"),
        (_set("Rows", 5), "mask_off_grid"),
    ],
)
def test_a_mask_of_something_else_is_refused(
    case: Case, spoil: Callable[[Dataset], None], code: str
) -> None:
    seg = read(make_seg(case.served, case.mask()))
    spoil(seg)
    with pytest.raises(MaskRefused) as caught:
        reidentify_seg(encode(seg), case.vault, case.originals[0])
    assert caught.value.code == code


def test_a_mask_of_another_request_is_refused(case: Case) -> None:
    """The other series lies in the same study and frame of reference, but is no main series."""
    seg = make_seg(case.served_other, case.mask())
    with pytest.raises(MaskRefused, match="no instance of its main series"):
        reidentify_seg(seg, case.vault, case.originals[0])
    alone = build_vault(case.other, [], [KEY])
    with pytest.raises(MaskRefused, match="no input of the request"):
        reidentify_seg(make_seg(case.served, case.mask()), alone, case.originals[0])


def test_a_mask_may_not_take_the_place_of_its_input(case: Case) -> None:
    seg = read(make_seg(case.served, case.mask()))
    seg.SOPInstanceUID = read(case.originals[0]).SOPInstanceUID
    with pytest.raises(MaskRefused):
        reidentify_seg(encode(seg), case.vault, case.originals[0])


@pytest.mark.parametrize("data", [b"", b"nonsense", bytes(128) + b"DICM"])
def test_what_is_no_dicom_is_refused(case: Case, data: bytes) -> None:
    with pytest.raises(MaskRefused):
        reidentify_seg(data, case.vault, case.originals[0])


def test_the_reports_uids_come_back(case: Case) -> None:
    original = case.main.instances[0].sop_uid
    report = {"main": KEY.uid(original), "text": f"of {KEY.uid(original)}.", "n": [1.5, None]}
    restored = json.loads(reidentify_json(json.dumps(report).encode(), case.vault))
    assert restored == {"main": original, "text": f"of {original}.", "n": [1.5, None]}
    for bad in (b"{", b"\xff\xfe", b"[" * 100_000):
        with pytest.raises(MaskRefused):
            reidentify_json(bad, case.vault)


def _references(dataset: Dataset) -> list[str]:
    found = []
    for element in dataset.iterall():
        if element.keyword == "ReferencedSOPInstanceUID":
            found.append(str(element.value))
    return found

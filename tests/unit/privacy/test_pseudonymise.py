from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from django_queue_app.privacy.allow_list import ALLOWED, Treatment
from django_queue_app.privacy.pseudonymise import CannotPseudonymise, pseudonymise
from django_queue_app.privacy.pseudonyms import Pseudonyms, shift_date
from tests.support import small_series
from tests.support.dicom_phantoms import Phantom, classic_slice, paint, write_enhanced
from tests.support.seg_files import encode, read

KEY = Pseudonyms(key=b"a key of the test")
MARKER = "KIMCHEOLSU"
TEXT_VRS = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM"}
TEXT_VRS |= {"UC", "UI", "UR", "UT"}
IDENTITY = (0x00080016, 0x00080018)  # written into the file meta information, too
KEEP = {"SpecificCharacterSet"}  # names how the rest is read


def serve(data: bytes) -> Dataset:
    return read(pseudonymise(data, KEY))


def instance(**values: object) -> bytes:
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
    return small_series.mr_instance(0, **{**uids, **values})


def planted(dataset: Dataset, *, depth: int) -> None:
    """Write the marker into every attribute of text in the dictionary, and into sequences."""
    sequences = 0
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        if not keyword or retired or keyword in KEEP or tag >> 16 in (0, 2, 4) or tag in dataset:
            continue
        if vr in TEXT_VRS:
            dataset[tag] = _raw(tag, vr, MARKER.encode())
        elif vr == "SQ" and depth and (sequences < 2 or (tag in ALLOWED and depth > 1)):
            sequences += 1
            item = Dataset()
            planted(item, depth=depth - 1)
            dataset[tag] = DataElement(tag, "SQ", Sequence([item]))
        elif vr in {"UN", "OB"}:
            dataset[tag] = DataElement(tag, vr, MARKER.encode())
    dataset[0x00290010] = _raw(0x00290010, "LO", MARKER.encode())
    dataset[0x00291010] = _raw(0x00291010, "UN", MARKER.encode())
    dataset[0x60004000] = _raw(0x60004000, "LT", MARKER.encode())
    dataset[0x60003000] = _raw(0x60003000, "OW", MARKER.encode())


def _raw(tag: int, vr: str, value: bytes) -> RawDataElement:
    return RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_name_planted_in_every_text_at_every_depth_never_leaves(depth: int) -> None:
    dataset = read(instance())
    planted(dataset, depth=depth)
    data = encode(dataset)
    count = data.count(MARKER.encode())
    assert count > 2000
    assert MARKER.encode() not in pseudonymise(data, KEY)


@pytest.mark.parametrize("vr", ["LO", "UN", "OB", "PN"])
def test_text_under_the_tag_of_an_allowed_attribute_never_leaves(vr: str) -> None:
    """A file may call any attribute anything; the dictionary's word counts, not the file's."""
    dataset = read(instance())
    for tag, treatment in ALLOWED.items():
        if treatment in (Treatment.SEQUENCE, Treatment.PIXELS) or tag in IDENTITY:
            continue
        if treatment is Treatment.BINARY and vr in ("UN", "OB"):
            continue  # bytes stand for numbers there
        dataset[tag] = _raw(tag, vr, MARKER.encode())
    assert MARKER.encode() not in pseudonymise(encode(dataset), KEY)


def test_known_identity_is_replaced_and_nothing_of_it_is_left() -> None:
    given = {
        "PatientName": "Kim^Cheolsu",
        "PatientID": "8201011234567",
        "PatientBirthDate": "19820101",
        "AccessionNumber": "ACC77",
        "InstitutionName": "Seoul Hospital",
        "StudyDate": "20240229",
        "StudyTime": "101112.5",
        "StudyDescription": "MRI of Kim",
        "FrameOfReferenceUID": "1.2.840.99.7",
    }
    data = pseudonymise(instance(**given), KEY)
    for value in given.values():
        if value not in ("101112.5",):
            assert str(value).encode() not in data
    served = read(data)
    assert served.StudyTime == "101112.5"
    assert served.PatientIdentityRemoved == "YES"
    assert served.FrameOfReferenceUID == KEY.uid("1.2.840.99.7")
    assert served.file_meta.MediaStorageSOPInstanceUID == served.SOPInstanceUID


def test_dates_of_one_patient_move_by_the_same_days() -> None:
    served = serve(instance(StudyDate="20240301", ContentDate="20240309", AcquisitionDate="x"))
    moved = [date.fromisoformat(served[name].value) for name in ("StudyDate", "ContentDate")]
    assert (moved[1] - moved[0]).days == 8
    assert moved[0] < date(2024, 3, 1)
    assert served.AcquisitionDate == ""
    assert serve(instance(PatientID="other", StudyDate="20240301")).StudyDate != served.StudyDate


def test_impossible_dates_become_empty() -> None:
    shift = KEY.shift_of("x")
    assert [shift_date(text, shift) for text in ("00010101", "20231341", "2023", "kim")] == [""] * 4


def test_the_same_key_gives_the_same_bytes_and_another_key_others() -> None:
    data = instance()
    assert pseudonymise(data, KEY) == pseudonymise(data, KEY)
    assert pseudonymise(data, KEY) != pseudonymise(data, Pseudonyms(key=b"other"))


def test_uids_are_the_documented_hmac() -> None:
    # python -c: int.from_bytes(hmac.digest(b"k", b"1.2.3", "sha256")[:16], "big")
    assert Pseudonyms(key=b"k").uid("1.2.3") == "2.25.111263612402845642126382191733580811337"
    assert KEY.uid("1.2.840.10008.1.2.1") == "1.2.840.10008.1.2.1"
    assert re.fullmatch(r"2\.25\.\d{1,39}", KEY.uid("1.2.3"))


def test_geometry_and_pixels_are_untouched() -> None:
    phantom = Phantom(slope=2.5, intercept=-7, is_signed=True)
    original = classic_slice(phantom, paint(phantom.grid), 5, 9)
    served = serve(encode(original))
    for name in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceThickness",
        "RescaleSlope",
        "RescaleIntercept",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "InstanceNumber",
        "PhotometricInterpretation",
        "SamplesPerPixel",
        "PixelData",
    ):
        assert served[name].value == original[name].value, name


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_the_transfer_syntax_is_kept(syntax: str, tmp_path: Path) -> None:
    (path,) = write_enhanced(tmp_path / "enhanced.dcm", Phantom(transfer_syntax=syntax))
    served = serve(path.read_bytes())
    assert served.file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(served.pixel_array, read(path.read_bytes()).pixel_array)


def test_a_deflated_object_stays_deflated() -> None:
    original = read(instance())
    original.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    served = serve(encode(original))
    assert served.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    assert served.PixelData == original.PixelData


def test_compressed_pixels_stay_as_they_are() -> None:
    original = read(instance())
    original.compress(RLELossless, generate_instance_uid=False)
    served = serve(encode(original))
    assert served.file_meta.TransferSyntaxUID == RLELossless
    assert served.PixelData == original.PixelData
    assert np.array_equal(served.pixel_array, read(instance()).pixel_array)


def test_functional_groups_of_an_enhanced_object_keep_their_geometry(tmp_path: Path) -> None:
    (path,) = write_enhanced(tmp_path / "enhanced.dcm", Phantom(order="shuffled"))
    original, served = read(path.read_bytes()), serve(path.read_bytes())
    shared = [one.SharedFunctionalGroupsSequence[0] for one in (original, served)]
    assert (
        shared[0].PlaneOrientationSequence[0].ImageOrientationPatient
        == shared[1].PlaneOrientationSequence[0].ImageOrientationPatient
    )
    positions = [
        [
            group.PlanePositionSequence[0].ImagePositionPatient
            for group in one.PerFrameFunctionalGroupsSequence
        ]
        for one in (original, served)
    ]
    assert positions[0] == positions[1]


@pytest.mark.parametrize("value", ["YES", "yes ", "Y"])
def test_an_image_with_burned_in_text_stays(value: str) -> None:
    with pytest.raises(CannotPseudonymise) as caught:
        pseudonymise(instance(BurnedInAnnotation=value), KEY)
    assert caught.value.code == "burned_in_annotation"


def test_burned_in_annotation_is_never_claimed_to_be_absent() -> None:
    assert "BurnedInAnnotation" not in serve(instance())


@pytest.mark.parametrize(
    ("given", "served"), [(b"1,2", "nan"), (b"NaN ", "nan"), (b"1e-1", "0.1"), (b"0 ", "0.0")]
)
def test_a_number_that_is_none_is_served_as_none_not_left_out(given: bytes, served: str) -> None:
    """A dropped slope would read as 1 and scale an image wrongly."""
    dataset = read(instance())
    dataset[0x00281053] = _raw(0x00281053, "DS", given)
    assert str(float(serve(encode(dataset)).RescaleSlope)) == served


def test_unknown_words_of_the_image_type_keep_their_place() -> None:
    served = serve(instance(ImageType=["ORIGINAL", "PRIMARY", "KIM", "MOSAIC"]))
    assert list(served.ImageType) == ["ORIGINAL", "PRIMARY", "OTHER", "MOSAIC"]


def test_what_writers_of_derived_objects_need_is_present() -> None:
    served = serve(instance())
    for name in (
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "AccessionNumber",
        "StudyID",
        "StudyDate",
        "StudyTime",
        "SliceThickness",
    ):
        assert name in served, name


@pytest.mark.parametrize(
    ("written", "served"),
    [
        ("Gadovist 7.5 ml, given by KIMCHEOLSU", "CONTRAST AGENT"),
        ("", "NONE"),
        ("None", "NONE"),
        ("NO CONTRAST", "NONE"),
        ("w/o", "NONE"),
    ],
)
def test_of_a_contrast_agent_only_that_there_was_one_is_served(written: str, served: str) -> None:
    assert serve(instance(ContrastBolusAgent=written)).ContrastBolusAgent == served


def test_a_contrast_agent_in_a_sequence_is_told_too_and_none_is_made_up() -> None:
    item = Dataset()
    item.CodeMeaning = MARKER
    given = serve(instance(ContrastBolusAgentSequence=Sequence([item])))
    assert given.ContrastBolusAgent == "CONTRAST AGENT"
    assert "ContrastBolusAgentSequence" not in given
    assert "ContrastBolusAgent" not in serve(instance())


def test_a_sequence_before_the_pixel_module_does_not_cost_its_signedness() -> None:
    """Reading a sequence makes pydicom decode Pixel Representation of the data set around it."""
    item = Dataset()
    item.DimensionOrganizationUID = "1.2.3"
    served = serve(instance(DimensionOrganizationSequence=[item]))
    assert served.PixelRepresentation == 0
    assert served.DimensionOrganizationSequence[0].DimensionOrganizationUID == KEY.uid("1.2.3")

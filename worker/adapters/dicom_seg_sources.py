"""The headers of the source images as a mask may know them: an allow-list, complete and valid.

highdicom copies much of what it finds in its sources: the institution, the station, comments on the
patient. So it never sees the files' own headers but these, which hold what a mask needs and no
more. What the standard demands and a source lacks is there, empty; what is there and invalid (a
birth date of "unknown", say) is emptied, since it would make the mask invalid as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat, validate_value

from worker.adapters.dicom_quiet import without_quotes
from worker.adapters.dicom_read import OpenedSeries
from worker.core.series import SliceHeader

# Type 2 in the Patient, General Study and Image Plane modules: present, empty if need be.
_TYPE_2 = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)

# Taken along where the source has them. Whether an identity was removed stays true of the mask.
_IF_PRESENT = (
    "StudyDescription",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)

_SEXES = frozenset({"M", "F", "O"})


def reference_headers(opened: OpenedSeries) -> tuple[Dataset, ...]:
    """Give one header for each instance of a series, in its slice order.

    Parameters
    ----------
    opened : OpenedSeries

    Returns
    -------
    tuple of Dataset
        Classic instances in slice order, so that plane k of an array belongs to header k; of
        multi-frame instances each with its frames in the file's order.
    """
    frames: list[list[SliceHeader]] = [[] for _ in opened.datasets]
    for source, header in zip(opened.slices, opened.headers, strict=True):
        frames[source.dataset].append(header)
    step_mm = opened.geometry.spacing_mm[2]
    with without_quotes():
        made = [
            _reference_header(dataset, headers, step_mm)
            for dataset, headers in zip(opened.datasets, frames, strict=True)
        ]
        # highdicom takes patient and study from the first image; of the others it asks the place.
        _add_patient_and_study(made[0], opened.datasets[0])
    return tuple(made)


def add_references(seg: Dataset, others: Sequence[OpenedSeries]) -> None:
    """Name every instance of the further inputs in a mask.

    highdicom would do it, but looks through its tables of modules for each source, which takes
    longer than all the rest, to find out what is known here: which instances there are.

    References
    ----------
    DICOM PS3.3 C.12.4.1 (Common Instance Reference)
    """
    for other in others:
        series = Dataset()
        series.SeriesInstanceUID = other.series_instance_uid
        series.ReferencedInstanceSequence = DicomSequence(map(_reference, other.datasets))
        seg.ReferencedSeriesSequence.append(series)


def _reference(dataset: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = dataset.SOPClassUID
    item.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    return item


def _reference_header(dataset: Dataset, headers: list[SliceHeader], step_mm: float) -> Dataset:
    header = _common(dataset)
    if headers[0].frame_number is None:
        _place(header, headers[0], step_mm)
        header.update(_plane(headers[0]))
    else:
        _add_frames(header, sorted(headers, key=lambda item: item.frame_number or 0), step_mm)
    return header


def _common(dataset: Dataset) -> Dataset:
    header = Dataset()
    header.file_meta = FileMetaDataset()
    # Whatever the file was written in: values are decoded here, and highdicom asks only this.
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.Modality = "MR"
    for keyword in (
        "SOPClassUID",
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
        "Rows",
        "Columns",
    ):
        setattr(header, keyword, dataset[keyword].value)
    return header


def _add_patient_and_study(header: Dataset, dataset: Dataset) -> None:
    # Decoded text is encoded anew, so that one character set holds names and labels alike.
    header.SpecificCharacterSet = "ISO_IR 192"
    for keyword in _TYPE_2:
        value = _valid_or_empty(dataset, keyword)
        setattr(header, keyword, value if isinstance(value, str) else "")  # one value each
    for keyword in _IF_PRESENT:
        if value := _valid_or_empty(dataset, keyword):
            setattr(header, keyword, value)


def _valid_or_empty(dataset: Dataset, keyword: str) -> Any:
    try:
        value = dataset.get(keyword)
        parts = [str(part) for part in value] if dataset[keyword].VM > 1 else [str(value or "")]
        for part in parts:
            validate_value(dictionary_VR(tag_for_keyword(keyword) or 0), part, RAISE)
    except Exception:  # absent, or anything that pydicom raises on bytes that are no text
        return ""
    if keyword == "PatientSex" and parts[0] not in _SEXES:
        return ""
    return parts[0] if len(parts) == 1 else parts


def _decimals(values: Sequence[float] | None) -> list[DSfloat]:
    # A decimal string has at most 16 characters; some writers put more.
    return [DSfloat(value, auto_format=True) for value in values or ()]


def _place(item: Dataset, header: SliceHeader, step_mm: float) -> None:
    item.PixelSpacing = _decimals(header.pixel_spacing)
    # The slices' distance, not the source's thickness: a mask fills the space between slices.
    item.SliceThickness = DSfloat(step_mm, auto_format=True)
    item.SpacingBetweenSlices = DSfloat(step_mm, auto_format=True)


def _plane(header: SliceHeader) -> Dataset:
    plane = Dataset()
    plane.ImagePositionPatient = _decimals(header.position)
    plane.ImageOrientationPatient = _decimals(header.orientation)
    return plane


def _add_frames(header: Dataset, frames: list[SliceHeader], step_mm: float) -> None:
    measures, orientation = Dataset(), Dataset()
    _place(measures, frames[0], step_mm)
    orientation.ImageOrientationPatient = _decimals(frames[0].orientation)
    shared = Dataset()
    shared.PixelMeasuresSequence = DicomSequence([measures])
    shared.PlaneOrientationSequence = DicomSequence([orientation])
    header.SharedFunctionalGroupsSequence = DicomSequence([shared])
    header.NumberOfFrames = len(frames)
    header.PerFrameFunctionalGroupsSequence = DicomSequence(
        [_frame_position(frame) for frame in frames]
    )


def _frame_position(frame: SliceHeader) -> Dataset:
    position, group = Dataset(), Dataset()
    position.ImagePositionPatient = _decimals(frame.position)
    group.PlanePositionSequence = DicomSequence([position])
    return group

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
from pydicom.dataelem import DataElement
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


def reference_headers(opened: OpenedSeries, part: slice) -> tuple[Dataset, ...]:
    """Give headers of the instances of a series that a mask needs, in slice order.

    Parameters
    ----------
    opened : OpenedSeries
    part : slice
        The slices that the mask has frames of.

    Returns
    -------
    tuple of Dataset
        Of classic instances those of the slices in `part`, so that plane k of an array belongs to
        header k; of multi-frame instances all, each with its frames in the file's order.
    """
    first = opened.headers[0]
    with without_quotes():
        if first.frame_number is None:
            elements = _place_elements(first, opened.geometry.spacing_mm[2])
            made = [
                _classic_header(opened.datasets[source.dataset], header, elements)
                for source, header in zip(opened.slices[part], opened.headers[part], strict=True)
            ]
        else:
            made = _multi_frame_headers(opened)
        # highdicom takes patient and study from the first image; of the others it asks the place.
        _add_patient_and_study(made[0], opened.datasets[0])
    return tuple(made)


def name_references(seg: Dataset, main: OpenedSeries, others: Sequence[OpenedSeries]) -> None:
    """Name every instance of the inputs in a mask, also those of slices without a frame.

    highdicom would do it for those that it is given, but looks through its tables of modules for
    each, which takes longer than all the rest, to find out what is known here: which instances
    there are.

    References
    ----------
    DICOM PS3.3 C.7.6.16.1.1 (Source Image Sequence), C.12.4.1 (Common Instance Reference)
    """
    seg.SourceImageSequence = DicomSequence(map(_reference, main.datasets))
    seg.ReferencedSeriesSequence = DicomSequence(map(_references, (main, *others)))


def _references(opened: OpenedSeries) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = opened.series_instance_uid
    series.ReferencedInstanceSequence = DicomSequence(map(_reference, opened.datasets))
    return series


def _reference(dataset: Dataset) -> Dataset:
    item = Dataset()
    item.add(_as_it_is("ReferencedSOPClassUID", dataset.SOPClassUID))
    item.add(_as_it_is("ReferencedSOPInstanceUID", dataset.SOPInstanceUID))
    return item


def _as_it_is(keyword: str, value: Any) -> DataElement:
    """Make an element of a value that pydicom read from one of the same kind: checked already."""
    tag = tag_for_keyword(keyword) or 0
    return DataElement(tag, dictionary_VR(tag), value, already_converted=True)


def _place_elements(header: SliceHeader, step_mm: float) -> Sequence[DataElement]:
    """Give what all slices of a series share, to be made once."""
    item = Dataset()
    _place(item, header, step_mm)
    item.ImageOrientationPatient = _decimals(header.orientation)
    return list(item)


def _classic_header(
    dataset: Dataset, header: SliceHeader, elements: Sequence[DataElement]
) -> Dataset:
    made = _common(dataset)
    for element in elements:
        made.add(element)
    made.ImagePositionPatient = _decimals(header.position)
    return made


def _multi_frame_headers(opened: OpenedSeries) -> list[Dataset]:
    frames: list[list[SliceHeader]] = [[] for _ in opened.datasets]
    for source, header in zip(opened.slices, opened.headers, strict=True):
        frames[source.dataset].append(header)
    made = []
    for dataset, headers in zip(opened.datasets, frames, strict=True):
        made.append(_common(dataset))
        ordered = sorted(headers, key=lambda item: item.frame_number or 0)
        _add_frames(made[-1], ordered, opened.geometry.spacing_mm[2])
    return made


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
        header.add(_as_it_is(keyword, dataset[keyword].value))
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

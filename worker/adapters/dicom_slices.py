"""What each slice of an MR instance says of itself: the whole instance, or one frame of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from worker.adapters.dicom_pixels import pixel_format
from worker.adapters.dicom_values import COLUMNS, ROWS, frame_count, required
from worker.core.errors import SeriesInvalid
from worker.core.series import SliceHeader

ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4.1"
LEGACY_ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4.4"
MULTI_FRAME = frozenset({ENHANCED_MR_IMAGE, LEGACY_ENHANCED_MR_IMAGE})


def name_of(dataset: Dataset) -> str:
    """Name an instance for a message, as a viewer would show it."""
    number = str(dataset.get("InstanceNumber") or "unknown")[:12]
    return f"instance number {number} (SOP Instance UID {str(dataset.SOPInstanceUID)[:64]})"


def slice_headers(dataset: Dataset) -> Iterator[SliceHeader]:
    """Read what each slice of an MR instance says of itself.

    Raises
    ------
    SeriesInvalid
        `missing_geometry`: frames that have no description of their own.
    """
    if str(dataset.SOPClassUID) not in MULTI_FRAME:
        if frame_count(dataset) != 1:
            raise SeriesInvalid(
                f"{_capital(name_of(dataset))} is a classic MR image with several frames, which "
                "have no position of their own; export it as Enhanced MR or as single slices.",
                code="missing_geometry",
            )
        yield _header(dataset, [dataset], frame_number=None)
        return
    frames = frame_count(dataset)
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if len(groups) != frames:
        raise SeriesInvalid(
            f"{_capital(name_of(dataset))} describes {len(groups)} of its {frames} frames, so the "
            "others have no position; export it again from the scanner.",
            code="missing_geometry",
        )
    for frame_number, group in enumerate(groups, start=1):
        yield _header(dataset, [group, *shared], frame_number=frame_number)


def _header(
    dataset: Dataset, groups: Sequence[Dataset], *, frame_number: int | None
) -> SliceHeader:
    is_frame = frame_number is not None

    def numbers(keyword: str, sequence: str) -> tuple[float, ...] | None:
        holder = _macro(groups, sequence) if is_frame else dataset
        return None if holder is None else _numbers(holder, keyword)

    slope, intercept = _rescale(_macro(groups, "PixelValueTransformationSequence"))
    if not is_frame:
        slope, intercept = _rescale(dataset)
    name = name_of(dataset)
    return SliceHeader(
        name=f"frame {frame_number} of {name}" if is_frame else name,
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_instance_uid=str(dataset.get("SeriesInstanceUID", "")),
        study_instance_uid=str(dataset.get("StudyInstanceUID", "")),
        patient_id=str(dataset.get("PatientID") or ""),
        frame_of_reference_uid=str(dataset.get("FrameOfReferenceUID") or ""),
        rows=required(dataset, ROWS),
        columns=required(dataset, COLUMNS),
        pixel_format=pixel_format(dataset),
        orientation=numbers("ImageOrientationPatient", "PlaneOrientationSequence"),
        position=numbers("ImagePositionPatient", "PlanePositionSequence"),
        pixel_spacing=numbers("PixelSpacing", "PixelMeasuresSequence"),
        frame_number=frame_number,
        slope=slope,
        intercept=intercept,
    )


def _macro(groups: Sequence[Dataset], keyword: str) -> Dataset | None:
    """Find a functional group: the frame's own before the shared one."""
    for group in groups:
        items = group.get(keyword)
        if items:
            item: Dataset = items[0]
            return item
    return None


def _rescale(holder: Dataset | None) -> tuple[float | None, float | None]:
    """Give slope and intercept; 1 and 0 where both are absent, None for what can't be read."""
    if holder is None or not ("RescaleSlope" in holder or "RescaleIntercept" in holder):
        return 1.0, 0.0
    slope, intercept = (
        _numbers(holder, keyword) for keyword in ("RescaleSlope", "RescaleIntercept")
    )
    return (
        slope[0] if slope and len(slope) == 1 else None,
        intercept[0] if intercept and len(intercept) == 1 else None,
    )


def _numbers(holder: Dataset, keyword: str) -> tuple[float, ...] | None:
    """Read decimal strings as they stand in the file: pydicom would warn, guess or raise."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in holder:
        return None
    element = holder.get_item(tag)
    value = element.value if element is not None else None
    if isinstance(value, bytes):
        parts = value.decode("ascii", errors="replace").split("\\")
    elif value is None:
        return None
    else:
        many = isinstance(value, (list, tuple)) or hasattr(value, "__iter__")
        parts = [str(part) for part in value] if many and not isinstance(value, str) else [value]
    try:
        return tuple(_number(str(part)) for part in parts)
    except ValueError:
        return None


def _number(text: str) -> float:
    if "_" in text:  # Python reads 1_0 as ten
        raise ValueError(text)
    return float(text.strip(" \0"))


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]

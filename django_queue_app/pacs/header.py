"""Read from a DICOM file what the index needs; hostile values become None, never an error."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydicom import Dataset, FileDataset, config, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from django_queue_app.pacs import orthanc_ids
from django_queue_app.pacs.index import TEXT_LENGTH
from django_queue_app.pacs.port import Cosines, InvalidInstance, Vector3
from django_queue_app.pacs.structure import check_structure
from django_queue_app.sequence_type import SequenceHints

# Values that break a rule of the standard are read as they are: what may be kept is decided by
# what is made of them, and a warning per file helps nobody.
config.settings.reading_validation_mode = config.IGNORE
# What it still warns of, it quotes: a patient's name does not belong into a log.
logging.getLogger("pydicom").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module=r"pydicom\.")

T = TypeVar("T")

_PIXEL_DATA = Tag(0x7FE0, 0x0010)
_UNDEFINED = 0xFFFFFFFF
_MOST = 2**31 - 1
# Orthanc refuses longer ones, too.
_LONGEST_PATIENT_ID = 256


@dataclass(frozen=True, kw_only=True)
class InstanceHeader:
    """What the index keeps of an instance."""

    patient_id: str
    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class_uid: str
    frame_of_reference_uid: str
    patient_name: str
    study_date: str
    study_description: str
    series_description: str
    modality: str
    series_number: int | None
    number: int | None
    rows: int
    columns: int
    frames: int
    position: Vector3 | None
    orientation: Cosines | None
    hints: SequenceHints

    @property
    def patient_key(self) -> str:
        """Orthanc id of the patient."""
        return orthanc_ids.hash_parts(self.patient_id)

    @property
    def study_key(self) -> str:
        """Orthanc id of the study."""
        return orthanc_ids.hash_parts(self.patient_id, self.study_uid)

    @property
    def series_key(self) -> str:
        """Orthanc id of the series."""
        return orthanc_ids.hash_parts(self.patient_id, self.study_uid, self.series_uid)

    @property
    def instance_key(self) -> str:
        """Orthanc id of the instance."""
        return orthanc_ids.hash_parts(
            self.patient_id, self.study_uid, self.series_uid, self.sop_uid
        )


def parse_dataset(data: bytes) -> FileDataset:
    """Read a DICOM file whole, after its structure was found sound.

    Raises
    ------
    InvalidInstance
    """
    check_structure(data)
    try:
        return dcmread(io.BytesIO(data))
    except Exception as error:
        # pydicom raises nearly anything on hostile input; its messages may quote the patient.
        raise _unreadable() from error


def read_header(data: bytes) -> InstanceHeader:
    """Read what the index needs.

    Raises
    ------
    InvalidInstance
        Not DICOM, cut short, without UIDs, or with less pixel data than its header says.
    """
    dataset = parse_dataset(data)
    header = header_of(dataset)
    _require_identity(header)
    _require_pixels(dataset, header)
    return header


def header_of(dataset: Dataset) -> InstanceHeader:
    """Collect the index's values from a data set."""
    position, orientation = _plane_of(dataset)
    return InstanceHeader(
        patient_id=orthanc_ids.patient_id_of(dataset),
        study_uid=uid_of(dataset, "StudyInstanceUID"),
        series_uid=uid_of(dataset, "SeriesInstanceUID"),
        sop_uid=uid_of(dataset, "SOPInstanceUID"),
        sop_class_uid=uid_of(dataset, "SOPClassUID"),
        frame_of_reference_uid=uid_of(dataset, "FrameOfReferenceUID"),
        patient_name=text_of(dataset, "PatientName"),
        study_date=text_of(dataset, "StudyDate")[:16],
        study_description=text_of(dataset, "StudyDescription"),
        series_description=text_of(dataset, "SeriesDescription"),
        modality=text_of(dataset, "Modality")[:16],
        series_number=integer_of(dataset, "SeriesNumber"),
        number=integer_of(dataset, "InstanceNumber"),
        rows=_count(dataset, "Rows", 0),
        columns=_count(dataset, "Columns", 0),
        frames=max(1, _count(dataset, "NumberOfFrames", 1)),
        position=position,
        orientation=orientation,
        hints=_hints_of(dataset),
    )


def _hints_of(dataset: Dataset) -> SequenceHints:
    return SequenceHints(
        description=" ".join(
            text_of(dataset, name) for name in ("SeriesDescription", "ProtocolName", "SequenceName")
        ),
        contrast_agent=text_of(dataset, "ContrastBolusAgent"),
        scanning_sequence=tuple(text_of(dataset, "ScanningSequence").upper().split("\\")),
        echo_time_ms=number_of(dataset, "EchoTime"),
        repetition_time_ms=number_of(dataset, "RepetitionTime"),
        inversion_time_ms=number_of(dataset, "InversionTime"),
        image_type=tuple(text_of(dataset, "ImageType").upper().split("\\")),
        b_value=number_of(dataset, "DiffusionBValue"),
    )


def _plane_of(dataset: Dataset) -> tuple[Vector3 | None, Cosines | None]:
    position = numbers_of(dataset, "ImagePositionPatient", 3)
    orientation = numbers_of(dataset, "ImageOrientationPatient", 6)
    if position is None and orientation is None:
        return frame_plane(dataset, 0)
    return position, orientation  # type: ignore[return-value]


def frame_plane(dataset: Dataset, frame: int) -> tuple[Vector3 | None, Cosines | None]:
    """Return position and orientation of one frame of an enhanced multi-frame object."""
    groups = [*item_of(dataset, "PerFrameFunctionalGroupsSequence", frame)]
    groups += item_of(dataset, "SharedFunctionalGroupsSequence", 0)
    position = _first_numbers(groups, "PlanePositionSequence", "ImagePositionPatient", 3)
    orientation = _first_numbers(groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    return position, orientation  # type: ignore[return-value]


def _first_numbers(
    groups: Sequence[Dataset], sequence: str, name: str, count: int
) -> tuple[float, ...] | None:
    for group in groups:
        for item in item_of(group, sequence, 0):
            numbers = numbers_of(item, name, count)
            if numbers is not None:
                return numbers
    return None


def item_of(dataset: Dataset, sequence: str, index: int) -> list[Dataset]:
    """Return one item of a sequence in a list, or an empty list."""

    def read() -> list[Dataset]:
        items = dataset.get(sequence) or []
        return [items[index]] if len(items) > index else []

    return _safely(read, [])


def uid_of(dataset: Dataset, name: str) -> str:
    """Return a UID as it stands, without padding; empty if absent or no UID."""
    tag = Tag(name)
    value = orthanc_ids.strip_value(orthanc_ids.raw_bytes(dataset, tag)).decode("ascii", "replace")
    return value if len(value) <= 64 and set(value) <= set("0123456789.") else ""


def text_of(dataset: Dataset, name: str) -> str:
    """Return a text value of at most 256 characters; several values joined by a backslash."""

    def read() -> str:
        value: Any = dataset.get(name)
        if value is None:
            return ""
        parts = value if isinstance(value, MultiValue | list) else [value]
        return "\\".join(map(str, parts)).replace("\0", "").strip()[:TEXT_LENGTH]

    return _safely(read, "")


def number_of(dataset: Dataset, name: str) -> float | None:
    """Return a finite number, the first of several."""

    def read() -> float | None:
        value: Any = dataset.get(name)
        if isinstance(value, MultiValue | list):
            value = value[0]
        number = float(value)
        return number if math.isfinite(number) else None

    return _safely(read, None)


def integer_of(dataset: Dataset, name: str) -> int | None:
    """Return an integer that fits into 32 bits."""
    number = number_of(dataset, name)
    return int(number) if number is not None and abs(number) <= _MOST else None


def numbers_of(dataset: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """Return exactly `count` finite numbers, or None."""

    def read() -> tuple[float, ...] | None:
        value: Any = dataset.get(name)
        numbers = tuple(float(one) for one in value)
        is_good = len(numbers) == count and all(map(math.isfinite, numbers))
        return numbers if is_good else None

    return _safely(read, None)


def _count(dataset: Dataset, name: str, default: int) -> int:
    number = integer_of(dataset, name)
    return number if number is not None and number >= 0 else default


def _safely(read: Callable[[], T], default: T) -> T:
    try:
        return read()
    except Exception:  # a value that its VR doesn't allow: pydicom raises nearly anything
        return default


def _require_identity(header: InstanceHeader) -> None:
    missing = [
        name
        for name, value in (
            ("SOPClassUID", header.sop_class_uid),
            ("SOPInstanceUID", header.sop_uid),
            ("SeriesInstanceUID", header.series_uid),
            ("StudyInstanceUID", header.study_uid),
        )
        if not value
    ]
    if missing:
        raise InvalidInstance(
            f"This DICOM file has no usable {', '.join(missing)}; an archive can't keep it.",
            f"DICOM 파일에 유효한 {', '.join(missing)}이(가) 없어 보관할 수 없습니다.",
            code="missing_uid",
        )
    if len(header.patient_id) > _LONGEST_PATIENT_ID:
        raise InvalidInstance(
            "The PatientID of this DICOM file is longer than 256 characters; correct it first.",
            "PatientID가 256자를 넘습니다. 먼저 수정하십시오.",
            code="bad_patient_id",
        )


def pixel_bytes_of(dataset: Dataset) -> int | None:
    """Return the length of uncompressed pixel data; None if compressed or absent."""
    element = dataset.get_item(_PIXEL_DATA, keep_deferred=True)
    if element is None:
        return None
    if isinstance(element, RawDataElement):
        return None if element.length == _UNDEFINED else element.length
    return None if element.is_undefined_length else len(element.value or b"")


def _require_pixels(dataset: FileDataset, header: InstanceHeader) -> None:
    """Refuse uncompressed pixel data that is shorter than rows, columns and frames need."""
    length = pixel_bytes_of(dataset)
    if length is None or not header.rows:
        return
    bits = _count(dataset, "BitsAllocated", 0) * max(1, _count(dataset, "SamplesPerPixel", 1))
    needed = (header.rows * header.columns * header.frames * bits + 7) // 8
    if length >= needed:
        return
    raise InvalidInstance(
        f"The pixel data of this DICOM file are {needed - length} bytes short of what its header "
        "says; export or send it again.",
        f"픽셀 데이터가 헤더보다 {needed - length}바이트 짧습니다. 다시 내보내거나 전송하십시오.",
        code="truncated",
    )


def _unreadable() -> InvalidInstance:
    return InvalidInstance(
        "This DICOM file can't be read; export it again.",
        "DICOM 파일을 읽을 수 없습니다. 다시 내보내십시오.",
        code="unreadable",
    )

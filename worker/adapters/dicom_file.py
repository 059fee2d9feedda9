"""Reads one DICOM file: what it is, whether it is whole, and what each of its slices says.

Messages name an instance by its number and SOP Instance UID, never by anything of the patient, and
never quote pydicom, whose messages quote values.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from worker.adapters import memory
from worker.adapters.dicom_pixels import (
    check_pixels,
    pixel_data,
    pixel_format,
    transfer_syntax,
)
from worker.adapters.dicom_quiet import without_quotes
from worker.adapters.dicom_values import (
    COLUMNS,
    ROWS,
    SAMPLES_PER_PIXEL,
    frame_count,
    number,
    required,
)
from worker.core.errors import SeriesInvalid
from worker.core.series import SliceHeader, check_matrix

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4.1"
LEGACY_ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4.4"
_MULTI_FRAME = frozenset({ENHANCED_MR_IMAGE, LEGACY_ENHANCED_MR_IMAGE})
_MR = _MULTI_FRAME | {MR_IMAGE}

# Pictures by form, results by meaning: a mask made earlier may lie in the same folder.
_SEGMENTATIONS = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})

# What folders hold beside images. Anything else that isn't DICOM is refused, since it may be a
# slice that was damaged.
_OTHER_SUFFIXES = frozenset({".txt", ".md", ".json", ".xml", ".csv", ".db", ".ini", ".html"})

# Twice the largest series that is accepted (core.series.MAX_VOXELS at 16 bits).
MAX_FILE_BYTES = 2**31

# No slice, and few multi-frame images, need 256 MiB; a deflated file of 1 MB can grow to 1 GB.
MAX_INFLATED_BYTES = 2**28

# All files of a series together, unpacked: their raw pixels are held until they are decoded.
MAX_SERIES_BYTES = 2**31

_PIXEL_DATA = Tag(0x7FE0, 0x0010)
_PIXEL_DATA_BYTES = b"\xe0\x7f\x10\x00"
_END_OF_FRAGMENTS = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
_DEFLATED = str(DeflatedExplicitVRLittleEndian).encode("ascii")
# Larger than any single slice.
_AT_ONCE_BYTES = 2**24
_TAIL_BYTES = 512  # some writers pad files behind the delimiter
_UNDEFINED_LENGTH = 0xFFFFFFFF
_MOSAIC_IMAGES = Tag(0x0019, 0x100A)  # Siemens: number of images in mosaic


@dataclass(frozen=True, kw_only=True, eq=False)
class Instance:
    """One MR instance, with what each of its frames says of itself."""

    path: Path
    dataset: Dataset
    headers: tuple[SliceHeader, ...]
    pixel_sha256: str

    @property
    def sop_instance_uid(self) -> str:
        """Its UID, which no other instance may have."""
        return self.headers[0].sop_instance_uid


class Budget:
    """How many bytes the files of one series may still take in memory."""

    def __init__(self, left: int = MAX_SERIES_BYTES) -> None:
        self._left = left

    def take(self, count: int, where: str) -> None:
        """Set bytes aside for a file. Raises SeriesInvalid where they are used up."""
        self._left -= count
        if self._left < 0:
            raise SeriesInvalid(
                f"The files of the series take more than {MAX_SERIES_BYTES >> 30} GiB in memory "
                f"({where} is one too many); crop the series, or leave out what isn't part of it.",
                code="too_large",
            )


def open_file(path: Path, where: str, notes: list[str], budget: Budget) -> Instance | None:
    """Read one file; None, with a note, where it holds no picture."""
    size = _size(path, where)
    # One reading of a file serves every check; a large one is read in parts, not held twice.
    data = path.read_bytes() if size <= _AT_ONCE_BYTES else None
    if not _is_expected(path, data, where, notes):
        return None
    try:
        with without_quotes():
            budget.take(_inflated_bytes(path, data, where), where)
            dataset = pydicom.dcmread(path if data is None else BytesIO(data))
            return _checked(_File(path=path, data=data), dataset, where, notes)
    except SeriesInvalid:
        raise
    except MemoryError:
        raise SeriesInvalid(
            f"{_capital(where)} needs more memory to be read than any MR image; leave it out, or "
            "export it again from the scanner.",
            code="too_large",
        ) from None
    except EOFError:
        raise _truncated(where) from None
    except Exception:  # RecursionError, struct.error: hostile headers make pydicom raise anything
        raise _unreadable(where) from None


def read_head(path: Path, keywords: Sequence[str]) -> Dataset | None:
    """Read a few elements of a file's head; None where it can't be read as DICOM.

    Nothing of the file is trusted yet: what unpacks without end counts as unreadable.
    """
    try:
        with without_quotes(), memory.limited(2 * MAX_INFLATED_BYTES):
            _inflated_bytes(path, None, path.name)
            head = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(keywords))
            for keyword in keywords:
                head.get(keyword)  # converted here, where what it raises is caught
            return head
    except Exception:  # hostile headers make pydicom raise anything
        return None


def _size(path: Path, where: str) -> int:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise SeriesInvalid(
            f"{_capital(where)} is larger than {MAX_FILE_BYTES >> 30} GiB; check that it is one "
            "MR instance.",
            code="too_large",
        )
    return size


def _is_expected(path: Path, data: bytes | None, where: str, notes: list[str]) -> bool:
    """Whether the file is DICOM; False, with a note, for what folders hold beside images."""
    if not _is_dicom(path, data):
        if path.suffix.lower() in _OTHER_SUFFIXES or path.name.startswith("."):
            notes.append("not DICOM")
            return False
        raise _unreadable(where)
    return True


def _is_dicom(path: Path, data: bytes | None) -> bool:
    if data is not None:
        return data[128:132] == b"DICM"
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file, and its bytes where they are at hand."""

    path: Path
    data: bytes | None

    def holds(self, part: bytes) -> bool:
        """Whether these bytes are somewhere in it."""
        return part in (self.path.read_bytes() if self.data is None else self.data)

    def tail(self) -> bytes:
        """Give its last bytes."""
        if self.data is not None:
            return self.data[-_TAIL_BYTES:]
        with self.path.open("rb") as file:
            file.seek(-min(_TAIL_BYTES, self.path.stat().st_size), 2)
            return file.read()


def _inflated_bytes(path: Path, data: bytes | None, where: str) -> int:
    """Give how large a file is unpacked; refuse one that grows past all bounds before it does."""
    if data is not None and _DEFLATED not in data:
        return len(data)  # the meta information names the transfer syntax in these very bytes
    size = path.stat().st_size
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return size
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    grown = 0
    with path.open("rb") as file:
        # Preamble, "DICM", then the group length element itself: 128 + 4 + 12 bytes.
        file.seek(144 + int(meta.FileMetaInformationGroupLength))
        # At the end of the stream zlib can keep an unconsumed tail for ever, hence `eof`.
        while not inflater.eof and (chunk := inflater.unconsumed_tail or file.read(1 << 16)):
            grown += len(inflater.decompress(chunk, 1 << 20))
            if grown > MAX_INFLATED_BYTES:
                raise SeriesInvalid(
                    f"{_capital(where)} grows past {MAX_INFLATED_BYTES >> 20} MiB when it is "
                    "unpacked; export it uncompressed.",
                    code="too_large",
                )
    return size + 2 * grown  # pydicom holds it twice for a moment


def _checked(file: _File, dataset: Dataset, where: str, notes: list[str]) -> Instance | None:
    if len(dataset) == 0 or "TransferSyntaxUID" not in dataset.file_meta:
        raise _unreadable(where)
    if _ends_early(dataset):
        raise _truncated(where)
    # A DICOMDIR says what it is only in its meta information.
    sop_class = str(
        dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""
    )
    if sop_class not in _MR:
        if sop_class in _SEGMENTATIONS or (sop_class and "Rows" not in dataset):
            notes.append("no picture")
            return None
        raise SeriesInvalid(
            f"{_capital(where)} is no MR image but {_kind(sop_class)}; choose a series of MR "
            "images.",
            code="not_mr",
        )
    _check_has_pixels(file, dataset, where)
    name = _capital(name_of(dataset))
    _check_picture(dataset, name)
    check_pixels(dataset, name)
    return Instance(
        path=file.path,
        dataset=dataset,
        headers=tuple(_headers(dataset)),
        pixel_sha256=hashlib.sha256(pixel_data(dataset)).hexdigest(),
    )


def _kind(sop_class: str) -> str:
    known = UID_dictionary.get(sop_class)
    return known[0] if known else "an object of an unknown class"


def _check_has_pixels(file: _File, dataset: Dataset, where: str) -> None:
    if "PixelData" in dataset:
        if transfer_syntax(dataset).is_encapsulated and not _has_end_of_fragments(file, dataset):
            raise _truncated(where)
        return
    # pydicom drops an element whose end is missing, so the file's own bytes are asked.
    if "Rows" not in dataset or file.holds(_PIXEL_DATA_BYTES):
        raise _truncated(where)
    raise SeriesInvalid(
        f"{_capital(where)} has a header but no pixels; fetch it again or leave it out.",
        code="no_pixel_data",
    )


def _has_end_of_fragments(file: _File, dataset: Dataset) -> bool:
    """Whether compressed pixels are followed by their delimiter (pydicom doesn't mind)."""
    if _last_tag(dataset) != _PIXEL_DATA:
        return True  # something could be read behind them
    return _END_OF_FRAGMENTS in file.tail()


def _last_tag(dataset: Dataset) -> BaseTag:
    return max(dataset.keys(), key=int)  # pydicom's own comparison of tags is slow


def _ends_early(dataset: Dataset) -> bool:
    """Whether the last element is shorter than it says (pydicom doesn't mind)."""
    last = dataset.get_item(_last_tag(dataset))
    if not isinstance(last, RawDataElement) or last.length == _UNDEFINED_LENGTH:
        return False
    return last.value is not None and len(last.value) < last.length


def _check_picture(dataset: Dataset, name: str) -> None:
    if (number(dataset, SAMPLES_PER_PIXEL) or 1) != 1:
        raise SeriesInvalid(
            f"{name} is a colour picture; choose a series of MR images.", code="not_mr"
        )
    photometric = str(dataset.get("PhotometricInterpretation") or "")
    if photometric == "MONOCHROME1":
        raise SeriesInvalid(
            f"{name} is stored inverted (MONOCHROME1), which readers treat differently; export "
            "it as MONOCHROME2.",
            code="monochrome1",
        )
    if photometric != "MONOCHROME2":
        raise SeriesInvalid(
            f"{name} isn't a grey-scale picture; choose a series of MR images.", code="not_mr"
        )
    image_type = dataset.get("ImageType") or ()
    if "MOSAIC" in list(image_type) or _MOSAIC_IMAGES in dataset:
        raise SeriesInvalid(
            f"{name} is a Siemens mosaic, many slices tiled into one picture; export the series "
            "as single slices or as Enhanced MR.",
            code="mosaic",
        )
    check_matrix(
        name,
        number(dataset, ROWS) or 0,
        number(dataset, COLUMNS) or 0,
        frames=frame_count(dataset),
    )


def name_of(dataset: Dataset) -> str:
    """Name an instance for a message, as a viewer would show it."""
    number = str(dataset.get("InstanceNumber") or "unknown")[:12]
    return f"instance number {number} (SOP Instance UID {str(dataset.SOPInstanceUID)[:64]})"


def _headers(dataset: Dataset) -> Iterator[SliceHeader]:
    if str(dataset.SOPClassUID) not in _MULTI_FRAME:
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


def _truncated(where: str) -> SeriesInvalid:
    return SeriesInvalid(f"{_capital(where)} is cut short; fetch it again.", code="truncated")


def _unreadable(where: str) -> SeriesInvalid:
    return SeriesInvalid(
        f"{_capital(where)} can't be read as DICOM; fetch it again or leave it out.",
        code="unreadable",
    )


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]

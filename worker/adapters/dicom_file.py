"""Reads one DICOM file: what it is, whether it is whole, and what each of its slices says.

Messages name an instance by its number and SOP Instance UID, never by anything of the patient, and
never quote pydicom, whose messages quote values.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom._uid_dict import UID_dictionary
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from worker.adapters import memory
from worker.adapters.dicom_bytes import FileBytes
from worker.adapters.dicom_pixels import (
    check_pixels,
    pixel_data,
    transfer_syntax,
)
from worker.adapters.dicom_quiet import without_quotes
from worker.adapters.dicom_slices import MULTI_FRAME, name_of, slice_headers
from worker.adapters.dicom_values import COLUMNS, ROWS, SAMPLES_PER_PIXEL, frame_count, number
from worker.core.errors import SeriesInvalid
from worker.core.series import SliceHeader, check_matrix

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
_MR = MULTI_FRAME | {MR_IMAGE}

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
    _check_size(path, where)
    file = FileBytes.of(path)
    if not _is_expected(file, where, notes):
        return None
    try:
        with without_quotes():
            budget.take(_inflated_bytes(file, where), where)
            return _checked(file, pydicom.dcmread(file.source()), where, notes)
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
            _inflated_bytes(FileBytes(path=path, data=None), path.name)
            head = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(keywords))
            for keyword in keywords:
                head.get(keyword)  # converted here, where what it raises is caught
            return head
    except Exception:  # hostile headers make pydicom raise anything
        return None


def _check_size(path: Path, where: str) -> None:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise SeriesInvalid(
            f"{_capital(where)} is larger than {MAX_FILE_BYTES >> 30} GiB; check that it is one "
            "MR instance.",
            code="too_large",
        )


def _is_expected(file: FileBytes, where: str, notes: list[str]) -> bool:
    """Whether the file is DICOM; False, with a note, for what folders hold beside images."""
    if file.head(132)[128:] != b"DICM":
        if file.path.suffix.lower() in _OTHER_SUFFIXES or file.path.name.startswith("."):
            notes.append("not DICOM")
            return False
        raise _unreadable(where)
    return True


def _inflated_bytes(file: FileBytes, where: str) -> int:
    """Give how large a file is unpacked; refuse one that grows past all bounds before it does."""
    path, size = file.path, file.path.stat().st_size
    if file.data is not None and _DEFLATED not in file.data:
        return size  # the meta information names the transfer syntax in these very bytes
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return size
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    grown = 0
    with path.open("rb") as stream:
        # Preamble, "DICM", then the group length element itself: 128 + 4 + 12 bytes.
        stream.seek(144 + int(meta.FileMetaInformationGroupLength))
        # At the end of the stream zlib can keep an unconsumed tail for ever, hence `eof`.
        while not inflater.eof and (chunk := inflater.unconsumed_tail or stream.read(1 << 16)):
            grown += len(inflater.decompress(chunk, 1 << 20))
            if grown > MAX_INFLATED_BYTES:
                raise SeriesInvalid(
                    f"{_capital(where)} grows past {MAX_INFLATED_BYTES >> 20} MiB when it is "
                    "unpacked; export it uncompressed.",
                    code="too_large",
                )
    return size + 2 * grown  # pydicom holds it twice for a moment


def _checked(file: FileBytes, dataset: Dataset, where: str, notes: list[str]) -> Instance | None:
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
        headers=tuple(slice_headers(dataset)),
        pixel_sha256=hashlib.sha256(pixel_data(dataset)).hexdigest(),
    )


def _kind(sop_class: str) -> str:
    known = UID_dictionary.get(sop_class)
    return known[0] if known else "an object of an unknown class"


def _check_has_pixels(file: FileBytes, dataset: Dataset, where: str) -> None:
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


def _has_end_of_fragments(file: FileBytes, dataset: Dataset) -> bool:
    """Whether compressed pixels are followed by their delimiter (pydicom doesn't mind)."""
    if _last_tag(dataset) != _PIXEL_DATA:
        return True  # something could be read behind them
    return _END_OF_FRAGMENTS in file.tail(_TAIL_BYTES)


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


def _truncated(where: str) -> SeriesInvalid:
    return SeriesInvalid(f"{_capital(where)} is cut short; fetch it again.", code="truncated")


def _unreadable(where: str) -> SeriesInvalid:
    return SeriesInvalid(
        f"{_capital(where)} can't be read as DICOM; fetch it again or leave it out.",
        code="unreadable",
    )


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]

"""Decodes the pixels of one DICOM image: every transfer syntax, sign and bit layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from worker.adapters.dicom_codestream import is_sound
from worker.adapters.dicom_quiet import without_quotes
from worker.adapters.dicom_values import (
    BITS_ALLOCATED,
    BITS_STORED,
    COLUMNS,
    HIGH_BIT,
    PIXEL_REPRESENTATION,
    ROWS,
    frame_count,
    number,
    required,
)
from worker.core.errors import SeriesInvalid

_BITS_ALLOCATED = (8, 16, 32)
_PIXEL_DATA = Tag(0x7FE0, 0x0010)

# Frames lie in the file as they are in memory.
_PLAIN = frozenset({ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian})


def pixel_format(dataset: Dataset) -> tuple[int, int, int, int]:
    """Give bits allocated, bits stored, high bit and pixel representation (1 = signed)."""
    stored = required(dataset, BITS_STORED)
    high_bit = number(dataset, HIGH_BIT) if HIGH_BIT in dataset else stored - 1
    return (
        required(dataset, BITS_ALLOCATED),
        stored,
        -1 if high_bit is None else high_bit,
        required(dataset, PIXEL_REPRESENTATION),
    )


def check_pixels(dataset: Dataset, name: str) -> None:
    """Refuse pixels that can't be decoded to whole frames, from the header and lengths alone.

    Raises
    ------
    SeriesInvalid
        `bad_pixel_format`, `unsupported_transfer_syntax` or `truncated`.
    """
    _check_format(dataset, name)
    syntax = transfer_syntax(dataset)
    _check_decoder(syntax, name)
    if not syntax.is_encapsulated:
        _check_length(dataset, name)


def _check_format(dataset: Dataset, name: str) -> None:
    allocated, stored, high_bit, representation = pixel_format(dataset)
    is_usable = (
        allocated in _BITS_ALLOCATED
        and 1 <= stored <= allocated
        and high_bit == stored - 1
        and representation in (0, 1)
    )
    if not is_usable:
        raise SeriesInvalid(
            f"{name} stores its pixels in a way that no MR image does ({allocated} bits, "
            f"{stored} used, high bit {high_bit}); export it again from the scanner.",
            code="bad_pixel_format",
        )


def _check_decoder(syntax: UID, name: str) -> None:
    try:
        is_available = get_decoder(syntax).is_available
    except NotImplementedError:
        is_available = False
    if not is_available:
        raise SeriesInvalid(
            f"{name} is compressed in a way that can't be read here ({syntax.name}); export the "
            "series uncompressed.",
            code="unsupported_transfer_syntax",
        )


def _check_length(dataset: Dataset, name: str) -> None:
    frame_bytes = required(dataset, ROWS) * required(dataset, COLUMNS)
    frame_bytes *= required(dataset, BITS_ALLOCATED) // 8
    expected = frame_bytes * frame_count(dataset)
    found = len(pixel_data(dataset))
    if found < expected:
        raise SeriesInvalid(
            f"{name} is cut short: {found:,} of {expected:,} bytes of pixels; fetch it again.",
            code="truncated",
        )
    # Pixel Data is padded to an even length; more than that means another number of frames.
    if found > expected + 1:
        raise SeriesInvalid(
            f"{name} has {found:,} bytes of pixels where its rows, columns and frames make "
            f"{expected:,}; export it again from the scanner.",
            code="bad_pixel_format",
        )


def transfer_syntax(dataset: Dataset) -> UID:
    """Give the transfer syntax that the file's meta information names."""
    return UID(dataset.file_meta.TransferSyntaxUID)


def iter_frames(dataset: Dataset, name: str) -> Iterator[npt.NDArray[np.integer[Any]]]:
    """Decode the stored values of every frame, in the file's order.

    Yields
    ------
    (rows, columns) integer
        Before rescaling; overlays in the unused high bits are gone, signs are right.

    Raises
    ------
    SeriesInvalid
        `unreadable`: the compressed data is damaged, or holds fewer frames than it says.
    """
    expected = frame_count(dataset)
    shape = (required(dataset, ROWS), required(dataset, COLUMNS))
    if transfer_syntax(dataset) in _PLAIN:
        yield from _plain_frames(dataset, expected, shape)
        return
    _check_codestreams(dataset, expected, name)
    count = 0
    frames = get_decoder(transfer_syntax(dataset)).iter_array(dataset, raw=True)
    while (frame := _next_frame(frames, name)) is not None:
        if frame.shape != shape:
            raise _damaged(name)
        count += 1
        yield frame
    if count != expected:
        raise _damaged(name)


def _plain_frames(
    dataset: Dataset, frames: int, shape: tuple[int, int]
) -> Iterator[npt.NDArray[np.integer[Any]]]:
    """Give frames that lie uncompressed in the file as views on its bytes.

    `check_pixels` has found as many bytes as there must be.
    """
    allocated, stored, _, is_signed = pixel_format(dataset)
    kind = np.dtype(f"<{'i' if is_signed else 'u'}{allocated // 8}")
    pixels = shape[0] * shape[1]
    values = np.frombuffer(pixel_data(dataset), dtype=kind, count=frames * pixels)
    unused = allocated - stored
    for frame in values.reshape(frames, *shape):
        # Overlays may lie in the bits above; shifting back gives a signed number its sign.
        yield (frame << unused) >> unused if unused else frame


def pixel_data(dataset: Dataset) -> bytes:
    """Give the value of Pixel Data as it lies in the file."""
    element = dataset.get_item(_PIXEL_DATA)
    if isinstance(element, RawDataElement) and element.value is not None:
        return element.value
    return bytes(dataset.PixelData)


def _check_codestreams(dataset: Dataset, frames: int, name: str) -> None:
    """Refuse compressed frames of another size than the header's, before they are decoded."""
    syntax = transfer_syntax(dataset)
    if not syntax.is_encapsulated:
        return
    rows, columns = required(dataset, ROWS), required(dataset, COLUMNS)
    sample_bytes = required(dataset, BITS_ALLOCATED) // 8
    try:
        with without_quotes():
            streams = list(generate_frames(dataset.PixelData, number_of_frames=frames))
    except Exception:  # pydicom raises nearly anything on damaged fragments
        raise _damaged(name) from None
    if len(streams) != frames or not all(
        is_sound(stream, syntax, rows=rows, columns=columns, sample_bytes=sample_bytes)
        for stream in streams
    ):
        raise _damaged(name)


def padding_mask(
    stored: npt.NDArray[np.integer[Any]], dataset: Dataset
) -> npt.NDArray[np.bool_] | None:
    """Say which stored values are padding, not picture; None where the header names none.

    References
    ----------
    DICOM PS3.3 C.7.5.1.1.2
    """
    first, last = (
        _stored_number(dataset, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")
    )
    if first is None:
        return None
    last = first if last is None else last
    return np.asarray((stored >= min(first, last)) & (stored <= max(first, last)))


def _stored_number(dataset: Dataset, keyword: str) -> int | None:
    """Read a value of the pixels' own sign, whichever VR the writer took."""
    value = dataset.get(keyword) if keyword in dataset else None
    if value is None or value == "":
        return None
    bits = int(dataset.BitsStored)
    number = int(value) & ((1 << bits) - 1)
    is_negative = int(dataset.PixelRepresentation) == 1 and number >> (bits - 1)
    return number - (1 << bits) if is_negative else number


def _next_frame(frames: Iterator[Any], name: str) -> npt.NDArray[np.integer[Any]] | None:
    with without_quotes():
        try:
            frame, _ = next(frames)
        except StopIteration:
            return None
        except Exception:
            raise _damaged(name) from None
    return np.asarray(frame)


def _damaged(name: str) -> SeriesInvalid:
    return SeriesInvalid(
        f"{name} has damaged pixels that can't be decoded; fetch it again.", code="unreadable"
    )

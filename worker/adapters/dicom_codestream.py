"""What a compressed frame says of itself, before a decoder sets memory aside for it.

The codestream, not the DICOM header, decides how much a decoder unpacks: a few bytes can claim
65535 x 65535 pixels, and an RLE frame grows by 64 before anybody counts. Not every decoder minds.
"""

from __future__ import annotations

import struct

from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

_J2K_START, _J2K_SIZE = b"\xff\x4f", b"\xff\x51"
_END = b"\xff\xd9"  # EOI of JPEG and JPEG-LS, EOC of JPEG 2000
# Markers that begin a frame (SOF): of JPEG (but DHT, JPG and DAC) and JPEG-LS.
_FRAME_MARKERS = (frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}) | {0xF7}
_BARE_MARKERS = frozenset(range(0xD0, 0xD9)) | {0x01}  # without a length
# HTJ2K has no group of its own in pydicom (PS3.5 A.4.4 and its followers).
_HTJ2K = frozenset(f"1.2.840.10008.1.2.4.20{number}" for number in (1, 2, 3))
_J2K = frozenset(map(str, JPEG2000TransferSyntaxes)) | _HTJ2K
_JPEG = frozenset(map(str, [*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes]))
# RLE can double what doesn't repeat at most; its header has 64 bytes (PS3.5 G.3).
_RLE_HEADER_BYTES = 64


def is_sound(frame: bytes, syntax: UID, *, rows: int, columns: int, sample_bytes: int) -> bool:
    """Whether a compressed frame is whole, of one sample a pixel, and of the size it must have."""
    if syntax == RLELossless:
        return len(frame) <= _RLE_HEADER_BYTES + 2 * rows * columns * sample_bytes + 2
    if str(syntax) in _J2K:
        size = _j2k_size(frame)
    elif str(syntax) in _JPEG:
        size = _jpeg_size(frame)
    else:
        return True
    return size == (rows, columns, 1) and _is_ended(frame)


def _is_ended(frame: bytes) -> bool:
    # Fragments are padded to an even length with a zero, by some writers with more.
    return frame.rstrip(b"\0").endswith(_END)


def _j2k_size(frame: bytes) -> tuple[int, int, int] | None:
    """Give rows, columns and components of the image area.

    References
    ----------
    ISO/IEC 15444-1 A.5.1
    """
    if frame[:2] != _J2K_START or frame[2:4] != _J2K_SIZE or len(frame) < 42:
        return None
    width, height, left, top = struct.unpack_from(">4I", frame, 8)
    (components,) = struct.unpack_from(">H", frame, 40)
    return height - top, width - left, components


def _jpeg_size(frame: bytes) -> tuple[int, int, int] | None:
    """Give rows, columns and components from the frame header.

    References
    ----------
    ISO/IEC 10918-1 B.2.2
    """
    at = 2
    while at + 10 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker in _FRAME_MARKERS:
            _, _, rows, columns, components = struct.unpack_from(">HBHHB", frame, at + 2)
            return rows, columns, components
        if marker == 0xFF:
            at += 1  # fill bytes may stand before a marker
        elif marker in _BARE_MARKERS:
            at += 2
        else:
            at += 2 + int(struct.unpack_from(">H", frame, at + 2)[0])
    return None

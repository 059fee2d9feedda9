"""Walk a DICOM file's skeleton without building it, before any reader that recurses sees it.

What this refuses would cost a reader its stack (20,000 nested sequences), its memory (a deflated
megabyte that grows to a gigabyte), or would be read silently short (a cut file).

References
----------
DICOM PS3.5, 7 (data set), A.4 (encapsulated pixel data), A.5 (deflated); PS3.10, 7.1 (file meta)
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from django_queue_app.pacs.port import InvalidInstance

PREAMBLE_BYTES = 132
# Real objects nest 4 to 8 deep; a reader needs several stack frames a level.
MAX_DEPTH = 32
# An enhanced object of 10,000 frames has about 600,000 elements.
MAX_ELEMENTS = 3_000_000
MAX_INFLATED_BYTES = 1 << 28

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_TRANSFER_SYNTAX = 0x00020010
_PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_UID = re.compile(r"[0-9.]{1,64}")
_LONG_LENGTH_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)


@dataclass(frozen=True, kw_only=True)
class _Level:
    """An open data set or sequence; `end` is None where a delimiter ends it."""

    is_sequence: bool
    end: int | None
    limit: int
    is_explicit: bool


def check_structure(data: bytes) -> str:
    """Walk the file to its end; return its transfer syntax.

    Raises
    ------
    InvalidInstance
        Not a DICOM file, cut short, nested too deep, or grown too large by inflation.
    """
    if data[128:PREAMBLE_BYTES] != b"DICM":
        raise InvalidInstance(
            "This is not a DICOM file; send files as the scanner or PACS exports them.",
            "DICOM 파일이 아닙니다. 장비나 PACS에서 내보낸 파일을 보내십시오.",
            code="not_dicom",
        )
    syntax, start = _read_file_meta(data)
    body = data
    if syntax == DeflatedExplicitVRLittleEndian:
        body, start = _inflate(data[start:]), 0
    is_big_endian = syntax == ExplicitVRBigEndian
    _Walk(body, is_big_endian=is_big_endian).run(start, syntax != ImplicitVRLittleEndian)
    return syntax


def _read_file_meta(data: bytes) -> tuple[str, int]:
    syntax, position = "", PREAMBLE_BYTES
    while data[position : position + 2] == b"\x02\x00":
        tag, _, length, value = _read_header(data, position, "<", is_explicit=True)
        if value + length > len(data):
            raise _truncated()
        if tag == _TRANSFER_SYNTAX:
            syntax = data[value : value + length].rstrip(b"\0 ").decode("ascii", "replace")
        position = value + length
    if not _UID.fullmatch(syntax):
        raise _malformed("its file meta information names no transfer syntax")
    return syntax, position


def _inflate(data: bytes) -> bytes:
    try:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        body = inflater.decompress(data, MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise _malformed("its deflated data can't be inflated") from error
    if inflater.unconsumed_tail:
        raise InvalidInstance(
            "This DICOM file grows beyond 256 MiB when inflated; send it uncompressed.",
            "압축을 풀면 256 MiB를 넘습니다. 압축하지 않은 파일을 보내십시오.",
            code="inflates_too_far",
        )
    if not inflater.eof:
        raise _truncated()
    return body


def _read_header(
    data: bytes, position: int, order: str, *, is_explicit: bool
) -> tuple[int, bytes, int, int]:
    """Return tag, VR (empty if implicit), length and the value's position."""
    try:
        group, element = struct.unpack_from(order + "HH", data, position)
        tag = group << 16 | element
        if not is_explicit or group == 0xFFFE:
            (length,) = struct.unpack_from(order + "I", data, position + 4)
            return tag, b"", length, position + 8
        representation = bytes(data[position + 4 : position + 6])
        if representation in _LONG_LENGTH_VRS:
            (length,) = struct.unpack_from(order + "I", data, position + 8)
            return tag, representation, length, position + 12
        (length,) = struct.unpack_from(order + "H", data, position + 6)
    except struct.error as error:
        raise _truncated() from error
    if not (representation.isalpha() and representation.isupper()):
        raise _malformed(f"the element at byte {position} has no value representation")
    return tag, representation, length, position + 8


class _Walk:
    """One pass over a data set, with an explicit stack."""

    def __init__(self, data: bytes, *, is_big_endian: bool) -> None:
        self._data = data
        self._order = ">" if is_big_endian else "<"
        self._stack: list[_Level] = []

    def run(self, start: int, is_explicit: bool) -> None:
        end = len(self._data)
        self._stack = [_Level(is_sequence=False, end=end, limit=end, is_explicit=is_explicit)]
        position = start
        for _ in range(MAX_ELEMENTS):
            position = self._close_ended(position)
            if not self._stack:
                return
            position = self._step(position)
        raise _malformed("it has more elements than any real object")

    def _close_ended(self, position: int) -> int:
        while self._stack and self._stack[-1].end is not None:
            end = self._stack[-1].end
            if position < end and not (len(self._stack) == 1 and self._is_padding(position)):
                return position
            self._stack.pop()
        if self._stack and position >= len(self._data):
            raise _truncated()
        return position

    def _is_padding(self, position: int) -> bool:
        # Some archives fill files up with zeros to a block's end.
        return self._data[position] == 0 and not any(self._data[position:])

    def _step(self, position: int) -> int:
        level = self._stack[-1]
        tag, representation, length, value = _read_header(
            self._data, position, self._order, is_explicit=level.is_explicit
        )
        if level.is_sequence:
            return self._enter_item(level, tag, length, value)
        if tag == _ITEM_END and level.end is None:
            self._stack.pop()
            return value
        if length == _UNDEFINED:
            return self._enter_undefined(level, tag, representation, value)
        self._require(value + length, level)
        if self._is_sequence(tag, representation):
            self._push(is_sequence=True, end=value + length, parent=level)
            return value
        return value + length

    def _enter_item(self, level: _Level, tag: int, length: int, value: int) -> int:
        if tag == _SEQUENCE_END and level.end is None:
            self._stack.pop()
            return value
        if tag != _ITEM:
            raise _malformed("a sequence holds something that is no item")
        end = None if length == _UNDEFINED else value + length
        if end is not None:
            self._require(end, level)
        self._push(is_sequence=False, end=end, parent=level)
        return value

    def _enter_undefined(self, level: _Level, tag: int, representation: bytes, value: int) -> int:
        if tag in _PIXEL_TAGS:
            return self._skip_fragments(value)
        if representation not in {b"", b"SQ", b"UN"}:
            raise _malformed("an element without a length is no sequence")
        # PS3.5, 6.2.2: an unknown sequence of undefined length is in implicit VR.
        is_explicit = level.is_explicit and representation == b"SQ"
        self._push(is_sequence=True, end=None, parent=level, is_explicit=is_explicit)
        return value

    def _skip_fragments(self, position: int) -> int:
        while True:
            tag, _, length, value = _read_header(
                self._data, position, self._order, is_explicit=False
            )
            if tag == _SEQUENCE_END:
                return value
            if tag != _ITEM or length == _UNDEFINED:
                raise _malformed("its compressed pixel data is broken")
            if value + length > len(self._data):
                raise _truncated()
            position = value + length

    def _require(self, end: int, level: _Level) -> None:
        if end > len(self._data):
            raise _truncated()
        if end > level.limit:
            raise _malformed("an element is longer than what holds it")

    def _push(
        self, *, is_sequence: bool, end: int | None, parent: _Level, is_explicit: bool | None = None
    ) -> None:
        if len(self._stack) > MAX_DEPTH:
            raise _malformed(f"its sequences are nested more than {MAX_DEPTH} deep")
        explicit = parent.is_explicit if is_explicit is None else is_explicit
        limit = parent.limit if end is None else end
        self._stack.append(
            _Level(is_sequence=is_sequence, end=end, limit=limit, is_explicit=explicit)
        )

    @staticmethod
    def _is_sequence(tag: int, representation: bytes) -> bool:
        # Private garbage behind a length is skipped, as every reader does.
        if tag >> 16 & 1:
            return False
        if representation:
            return representation == b"SQ"
        try:
            return dictionary_VR(Tag(tag)) == "SQ"
        except KeyError:
            return False


def _truncated() -> InvalidInstance:
    return InvalidInstance(
        "This DICOM file is cut short; export or send it again.",
        "DICOM 파일이 잘렸습니다. 다시 내보내거나 전송하십시오.",
        code="truncated",
    )


def _malformed(what: str) -> InvalidInstance:
    return InvalidInstance(
        f"This DICOM file can't be read: {what}; export it again.",
        "DICOM 파일을 읽을 수 없습니다. 다시 내보내십시오.",
        code="unreadable",
    )

"""Write a data set whose values are bytes already.

pydicom's writer decodes and encodes values on its way; here the bytes of an allowed value leave as
they came, so that what is served is the same on every version of every library.

References
----------
DICOM PS3.5, 7 and A; PS3.10, 7.1
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

IMPLEMENTATION_CLASS_UID = "2.25.151843220176428459326812344183208497217"
IMPLEMENTATION_VERSION_NAME = "MRI_QUEUE_1"

_LONG_LENGTH_VRS = frozenset(
    {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
)
_UNDEFINED = 0xFFFFFFFF
_ITEM, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)


@dataclass(frozen=True, kw_only=True)
class Element:
    """One element: its value in bytes, or the items of a sequence.

    `is_encapsulated` marks compressed pixel data: the value is its items without the delimiter.
    """

    vr: str
    value: bytes = b""
    items: tuple[Elements, ...] | None = None
    is_encapsulated: bool = False


Elements = Mapping[int, Element]


def text_element(vr: str, text: str) -> Element:
    """Return an element of ASCII text, padded to even length."""
    padding = b"\0" if vr == "UI" else b" "
    value = text.encode("ascii")
    return Element(vr=vr, value=value + padding * (len(value) % 2))


def sequence_element(*items: Elements) -> Element:
    """Return a sequence."""
    return Element(vr="SQ", items=items)


def encode_file(elements: Elements, *, transfer_syntax: str) -> bytes:
    """Return a DICOM file with new file meta information.

    SOPClassUID and SOPInstanceUID must be among the elements.
    """
    writer = _Writer(
        order=">" if transfer_syntax == ExplicitVRBigEndian else "<",
        is_explicit=transfer_syntax != ImplicitVRLittleEndian,
    )
    body = writer.data_set(elements)
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = deflater.compress(body) + deflater.flush()
        body += b"\0" * (len(body) % 2)
    return bytes(128) + b"DICM" + _file_meta(elements, transfer_syntax) + body


def _file_meta(elements: Elements, transfer_syntax: str) -> bytes:
    meta = {
        0x00020001: Element(vr="OB", value=b"\0\1"),
        0x00020002: Element(vr="UI", value=elements[0x00080016].value),
        0x00020003: Element(vr="UI", value=elements[0x00080018].value),
        0x00020010: text_element("UI", transfer_syntax),
        0x00020012: text_element("UI", IMPLEMENTATION_CLASS_UID),
        0x00020013: text_element("SH", IMPLEMENTATION_VERSION_NAME),
    }
    writer = _Writer(order="<", is_explicit=True)
    body = writer.data_set(meta)
    length = {0x00020000: Element(vr="UL", value=struct.pack("<I", len(body)))}
    return writer.data_set(length) + body


@dataclass(frozen=True, kw_only=True)
class _Writer:
    order: str
    is_explicit: bool

    def data_set(self, elements: Elements) -> bytes:
        parts: list[bytes] = []
        for tag in sorted(elements):
            parts += self._element(tag, elements[tag])
        return b"".join(parts)

    def _element(self, tag: int, element: Element) -> list[bytes]:
        value = element.value
        if element.items is not None:
            value = b"".join(map(self._item, element.items))
        group = (tag >> 16, tag & 0xFFFF)
        if element.is_encapsulated:
            end = struct.pack(self.order + "HHI", *_SEQUENCE_END, 0)
            return [self._header(*group, element.vr, _UNDEFINED), value, end]
        return [self._header(*group, element.vr, len(value)), value]

    def _item(self, elements: Elements) -> bytes:
        body = self.data_set(elements)
        return struct.pack(self.order + "HHI", *_ITEM, len(body)) + body

    def _header(self, group: int, element: int, vr: str, length: int) -> bytes:
        if not self.is_explicit:
            return struct.pack(self.order + "HHI", group, element, length)
        if vr in _LONG_LENGTH_VRS:
            layout = self.order + "HH2sHI"
            return struct.pack(layout, group, element, vr.encode(), 0, length)
        return struct.pack(self.order + "HH2sH", group, element, vr.encode(), length)

from __future__ import annotations

import struct
import tracemalloc
import zlib

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from django_queue_app.pacs.port import InvalidInstance
from django_queue_app.pacs.structure import MAX_DEPTH, check_structure
from tests.support import small_series
from tests.support.dicom_phantoms import Phantom, classic_slice, paint
from tests.support.seg_files import encode, read


def refusal(data: bytes) -> str:
    with pytest.raises(InvalidInstance) as caught:
        check_structure(data)
    return caught.value.code


def with_body(body: bytes, syntax: str = "1.2.840.10008.1.2.1") -> bytes:
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(value)) + value
    return bytes(128) + b"DICM" + meta + body


def nested(depth: int) -> bytes:
    sequence = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ends = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return (sequence + item) * depth + ends * depth


def test_twenty_thousand_nested_sequences_are_refused_without_recursion() -> None:
    assert refusal(with_body(nested(20_000))) == "unreadable"
    check_structure(with_body(nested(MAX_DEPTH // 2 - 1)))


def test_a_deflated_bomb_is_not_inflated() -> None:
    bomb = zlib.compressobj(wbits=-15)
    body = bomb.compress(bytes(300 << 20)) + bomb.flush()
    tracemalloc.start()
    assert refusal(with_body(body, DeflatedExplicitVRLittleEndian)) == "inflates_too_far"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 800 << 20


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_every_uncompressed_transfer_syntax_is_walked(syntax: str) -> None:
    phantom = Phantom(transfer_syntax=ImplicitVRLittleEndian)
    dataset = classic_slice(phantom, paint(phantom.grid), 3, 1)
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = b"\0" * len(dataset.PixelData)
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    dataset.ReferencedImageSequence = Sequence([item])
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.set_original_encoding(None, None)
    data = encode(dataset)
    assert check_structure(data) == syntax
    if syntax != DeflatedExplicitVRLittleEndian:
        assert refusal(data[:-7]) == "truncated"


def test_zeros_at_the_end_are_padding() -> None:
    check_structure(small_series.mr_instance(0) + bytes(512))


def test_private_garbage_behind_a_length_is_passed_over() -> None:
    dataset = read(small_series.mr_instance(0))
    dataset.add_new(0x00290010, "LO", "VENDOR")
    dataset.add_new(0x00291010, "UN", b"\xfe\xff\x00\xe0 no item at all")
    check_structure(encode(dataset))


@pytest.mark.parametrize(
    "data", [b"", b"DICM", bytes(131), b"GIF89a" + bytes(500), bytes(128) + b"DICM"]
)
def test_what_is_no_dicom_file_is_refused(data: bytes) -> None:
    assert refusal(data) in {"not_dicom", "unreadable"}

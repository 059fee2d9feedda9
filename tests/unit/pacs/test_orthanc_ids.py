from __future__ import annotations

import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from django_queue_app.pacs import orthanc_ids


def patient(value: bytes, charset: bytes | None = None) -> Dataset:
    dataset = Dataset()
    for tag, vr, raw in ((0x00080005, "CS", charset), (0x00100020, "LO", value)):
        if raw is not None:
            dataset[Tag(tag)] = RawDataElement(Tag(tag), vr, len(raw), raw, 0, False, True)
    return dataset


@pytest.mark.parametrize(
    ("value", "charset", "expected"),
    [
        # Each answered by Orthanc 1.10.1 in its own id.
        (b"ABC ", None, "ABC"),
        (b"  AB C ", None, "  AB C"),
        (b"ABC\0", None, "ABC"),
        (b"AB\0C", None, "AB"),
        (b"AB \0", None, "AB "),
        (b"\0AB ", None, ""),
        (b"\tAB\n", None, "\tAB\n"),
        (b"A \\ B ", None, "A \\ B"),
        (b"  ", None, ""),
        (b"M\xfcller", b"ISO_IR 100", "Müller"),
        (b"M\xfcller", None, "Müller"),
        ("김철수 ".encode(), b"ISO_IR 192", "김철수"),
        (b"\x1b$)C\xb1\xe8 ", b"\\ISO 2022 IR 149 ", "김"),
        (b"A\xff\xfeB", b"ISO_IR 192", "AB"),
        (b"M\xfcl ", b"FOO ", "Ml"),
        (b"\xd4\xcf\xc0\xde", b"ISO_IR 13 ", "ﾔﾏﾀﾞ"),
    ],
)
def test_patient_ids_are_read_as_orthanc_reads_them(
    value: bytes, charset: bytes | None, expected: str
) -> None:
    assert orthanc_ids.patient_id_of(patient(value, charset)) == expected


def test_an_id_is_the_sha1_of_the_joined_parts_in_five_groups() -> None:
    # printf 'ABC|1.2.3' | sha1sum
    assert orthanc_ids.hash_parts("ABC", "1.2.3") == "e77e62e3-92b23481-d6cb861d-140ec7be-fe4e40f6"


@pytest.mark.parametrize("text", ["", "x", "../etc", "0" * 44, "\0", "01234567-" * 5])
def test_what_can_be_no_id_is_told(text: str) -> None:
    assert not orthanc_ids.is_id(text)

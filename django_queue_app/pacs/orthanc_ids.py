"""Ids as Orthanc makes them: SHA-1 over PatientID and UIDs, as five groups of eight digits.

Checked against Orthanc 1.10.1 with 30 spellings of PatientID: trailing spaces fall away, leading
ones count, everything from the first NUL on is ignored, the text is hashed as UTF-8.

References
----------
https://orthanc.uclouvain.be/book/faq/orthanc-ids.html
"""

from __future__ import annotations

import hashlib
import re

from pydicom import Dataset
from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag, Tag

PATIENT_ID = Tag(0x0010, 0x0020)
_CHARSET = Tag(0x0008, 0x0005)
# Orthanc's `DefaultEncoding` for objects that name no character set.
_DEFAULT_ENCODING = "latin-1"
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")


def is_id(text: str) -> bool:
    """Tell whether a text can be an id at all."""
    return _ID.fullmatch(text) is not None


def hash_parts(*parts: str) -> str:
    """Return the id of a patient (1 part), study (2), series (3) or instance (4)."""
    digest = hashlib.sha1("|".join(parts).encode("utf-8", "replace"), usedforsecurity=False)
    digits = digest.hexdigest()
    return "-".join(digits[start : start + 8] for start in range(0, 40, 8))


def strip_value(value: bytes) -> bytes:
    """Cut a text value as DCMTK does for Orthanc: padding spaces, then all from a NUL on."""
    return value.rstrip(b" ").split(b"\0", 1)[0]


def patient_id_of(dataset: Dataset) -> str:
    """Return PatientID as it goes into the ids, decoded by the object's character set."""
    return decode_text(raw_bytes(dataset, PATIENT_ID), raw_bytes(dataset, _CHARSET))


def raw_bytes(dataset: Dataset, tag: BaseTag) -> bytes:
    """Return a text element's bytes as they stand in the file; empty when absent."""
    if tag not in dataset:
        return b""
    element = dataset.get_item(tag, keep_deferred=True)
    value = element.value if element is not None else None
    if isinstance(element, RawDataElement):
        return value or b""
    if isinstance(value, bytes):
        return value
    if value is None:
        return b""
    text = "\\".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text.encode("utf-8", "replace")


def decode_text(value: bytes, charset: bytes) -> str:
    """Decode a stripped value by SpecificCharacterSet.

    Without one, Orthanc takes Latin-1; under an unknown one it keeps ASCII alone.
    """
    stripped = strip_value(value)
    names = [name.strip() for name in charset.decode("ascii", "ignore").rstrip("\0 ").split("\\")]
    if names == [""]:
        return stripped.decode(_DEFAULT_ENCODING)
    if "ISO_IR 192" in names:
        return stripped.decode("utf-8", "ignore")
    if not all(name in python_encoding for name in names):
        return stripped.decode("ascii", "ignore")
    try:
        return decode_bytes(stripped, convert_encodings(names), set())
    except (LookupError, UnicodeError):
        return stripped.decode("ascii", "ignore")

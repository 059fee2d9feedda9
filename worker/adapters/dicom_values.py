"""Reads whole numbers from a DICOM header at the cost of reading two bytes.

pydicom turns every element into an object of its own when it is first asked for, which for the
thousand slices of an examination costs more than reading the files.
"""

from __future__ import annotations

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

ROWS = Tag(0x0028, 0x0010)
COLUMNS = Tag(0x0028, 0x0011)
SAMPLES_PER_PIXEL = Tag(0x0028, 0x0002)
BITS_ALLOCATED = Tag(0x0028, 0x0100)
BITS_STORED = Tag(0x0028, 0x0101)
HIGH_BIT = Tag(0x0028, 0x0102)
PIXEL_REPRESENTATION = Tag(0x0028, 0x0103)
NUMBER_OF_FRAMES = Tag(0x0028, 0x0008)

# Without a VR (Implicit VR) the dictionary gives it; all tags above but the last are US there.
_UNSIGNED_SHORT = ("US", None)


def number(dataset: Dataset, tag: BaseTag) -> int | None:
    """Give the value of a US element as pydicom would; None where it is absent or empty.

    Raises
    ------
    Exception
        What pydicom raises on a value that is no number.
    """
    if tag not in dataset:
        return None
    element = dataset.get_item(tag)
    if (
        isinstance(element, RawDataElement)
        and element.VR in _UNSIGNED_SHORT
        and element.value is not None
        and len(element.value) == 2
    ):
        return int.from_bytes(element.value, "little" if element.is_little_endian else "big")
    value = dataset[tag].value
    return None if value is None or value == "" else int(value)


def required(dataset: Dataset, tag: BaseTag) -> int:
    """Give the value of a US element that an image must have.

    Raises
    ------
    ValueError
        It is absent or empty.
    """
    found = number(dataset, tag)
    if found is None:
        raise ValueError(f"{tag} is missing")
    return found


def frame_count(dataset: Dataset) -> int:
    """Give the number of frames; 1 where the header names none."""
    if NUMBER_OF_FRAMES not in dataset:
        return 1
    return int(dataset[NUMBER_OF_FRAMES].value or 1)

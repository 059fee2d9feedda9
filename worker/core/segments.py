"""What a model's labels mean, and the label array that an engine gives back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

# How a DICOM SEG holds its segments: a frame of bits for each, or one number for each voxel.
SEG_TYPES = ("binary", "labelmap")

# Above, counting every value at once is quicker than one after the other.
_FEW_VALUES = 12

LabelArray = npt.NDArray[np.unsignedinteger[Any]]
Box = tuple[slice, ...]


@dataclass(frozen=True, kw_only=True)
class Code:
    """A coded concept: value, coding scheme designator (SCT, DCM, 99LOCAL, ...), meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class SegmentSpec:
    """What one label value of a model is, in the words of DICOM SEG.

    Parameters
    ----------
    label_value : int
        The integer (label map) or 1-based class that the model gives it; above 0.
    label, label_ko : str
        What people read, in English and, where there is one, in Korean.
    category, type, type_modifier, anatomic_region : Code
        PS3.3 C.8.20.4: for a tumour 49755003 and 108369006 (SCT), say.
    color_rgb : tuple of int, optional
        0..255 each; a distinct colour is chosen where there is none.
    counts_as_tumor : bool
        Whether its voxels belong to `tumor_volume_*`.
    """

    label_value: int
    label: str
    category: Code
    type: Code
    type_modifier: Code | None = None
    anatomic_region: Code | None = None
    color_rgb: tuple[int, int, int] | None = None
    counts_as_tumor: bool = True
    label_ko: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """What an engine found, on the grid of its input.

    Parameters
    ----------
    array : (I, J, K) uint8 or uint16, or (N, I, J, K) uint8
        Axes column, row, slice. A label map (0 = background), or, when `is_overlapping`, one
        0/1 mask for each of `values`.
    values : tuple of int
        The label values that can occur; for overlapping masks the value of each mask, in order.
    is_overlapping : bool
        Whether a voxel can belong to several segments.
    notes : tuple of str
        What a person must know of how it was made; each becomes a warning of the result.
    """

    array: LabelArray
    values: tuple[int, ...]
    is_overlapping: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expected = 4 if self.is_overlapping else 3
        if self.array.ndim != expected:
            raise ValueError(f"expected {expected} axes in the label array, got {self.array.ndim}")
        if self.is_overlapping and len(self.values) != self.array.shape[0]:
            raise ValueError(f"{self.array.shape[0]} masks but {len(self.values)} label values")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        i, j, k = self.array.shape[-3:]
        return (i, j, k)

    @cached_property
    def box(self) -> Box:
        """The smallest (I, J, K) box that holds every segment; an empty one for no segment."""
        return bounding_box(self.array)[-3:]

    def in_slice_order(self) -> Labels:
        """Give the same labels with whole slices, and in them whole rows, contiguous in memory.

        That is how DICOM frames and NIfTI lie, so that all that follows reads memory in order.
        """
        turned = self.array.transpose(*range(self.array.ndim - 3), -1, -2, -3)
        if turned.flags.c_contiguous:
            return self
        made: LabelArray = np.zeros(turned.shape, dtype=self.array.dtype)
        made = made.transpose(*range(made.ndim - 3), -1, -2, -3)
        # The background is there already; segments fill a small part of most volumes.
        inside: tuple[Any, ...] = (..., *self.box)
        made[inside] = self.array[inside]
        return replace(self, array=made)

    def between(self, slices: slice) -> Labels:
        """Give the labels of some of the slices, without a copy."""
        return replace(self, array=self.array[..., slices])

    def mask(self, value: int) -> npt.NDArray[np.bool_]:
        """Give the (I, J, K) mask of one label value; all False where it can't occur."""
        if not self.is_overlapping:
            return np.asarray(self.array == value)
        if value not in self.values:
            return np.zeros(self.shape, dtype=bool)
        return np.asarray(self.array[self.values.index(value)] != 0)

    def recoded(self, numbers: Mapping[int, int]) -> LabelArray:
        """Give a label map's (I, J, K) array with other numbers; 0 for values that aren't named."""
        if self.is_overlapping:
            raise ValueError("overlapping masks have no one number for a voxel")
        largest = max(int(np.iinfo(self.array.dtype).max), *numbers, 0)
        dtype = (
            np.uint8 if max(numbers.values(), default=0) <= np.iinfo(np.uint8).max else np.uint16
        )
        table = np.zeros(largest + 1, dtype=dtype)
        for value, number in numbers.items():
            table[value] = number
        return np.asarray(table[self.array])

    def counts(self) -> dict[int, int]:
        """Count the voxels of each label value, other than background, that any voxel has."""
        if self.is_overlapping:
            found = [int(np.count_nonzero(mask)) for mask in self.array]
            return {value: n for value, n in zip(self.values, found, strict=True) if n}
        known = self._counts_of_known()
        if known is not None:
            return known
        # bincount over the array as it lies in memory: np.unique would sort every voxel.
        found = np.bincount(self.array.ravel(order="K")).tolist()
        return {value: n for value, n in enumerate(found) if n and value}

    def _counts_of_known(self) -> dict[int, int] | None:
        """Count a few values one by one, a tenth of the work; None where there are others, too."""
        if len(self.values) > _FEW_VALUES:
            return None
        values = dict.fromkeys(self.values)
        found = {value: int(np.count_nonzero(self.array == value)) for value in values if value}
        is_all = sum(found.values()) == np.count_nonzero(self.array)
        return {value: n for value, n in sorted(found.items()) if n} if is_all else None

    def present_values(self) -> frozenset[int]:
        """Give the label values, other than background, that at least one voxel has."""
        return frozenset(self.counts())


def bounding_box(array: npt.NDArray[Any]) -> Box:
    """Give the smallest box around what isn't zero; slices of no length where nothing is.

    Parameters
    ----------
    array : (...) bool or unsigned integer
    """
    box = [slice(0, size) for size in array.shape]
    # The axis of the largest steps first: its planes are read in order, and few are left after it.
    for axis in sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])):
        others = tuple(other for other in range(array.ndim) if other != axis)
        hit = np.flatnonzero(array[tuple(box)].max(axis=others, initial=0))
        box[axis] = slice(int(hit[0]), int(hit[-1]) + 1) if hit.size else slice(0, 0)
    return tuple(box)


def ordered_by_label(specs: Iterable[SegmentSpec]) -> tuple[SegmentSpec, ...]:
    """Give the specs in ascending label value: position plus one is the DICOM segment number."""
    return tuple(sorted(specs, key=lambda spec: spec.label_value))

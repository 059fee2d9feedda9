"""Reads a written DICOM SEG back and proves that every voxel is where it belongs.

No validator can see a mask that is transposed, flipped or shifted, so each frame of the file is
placed by its own coordinates and compared with the labels it came from. Uses pydicom only: nothing
of what wrote the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array

from worker.adapters import memory
from worker.core.errors import WorkerError
from worker.core.geometry import Geometry
from worker.core.segments import Labels, SegmentSpec

# How far, in voxels, a frame may lie from its slice: series.py accepts slices that are 2 % of a
# step off the even grid and tilted by 1e-3; the mask's frames carry the slices' true positions,
# the geometry an even grid. Half a voxel would be another voxel.
PLACE_TOLERANCE_VOXELS = 0.4


class MaskMisplaced(WorkerError):
    """The mask that was written isn't the mask that was found; it must not leave."""

    code = "mask_misplaced"
    is_retryable = False


def check_dicom_seg(
    path: Path, labels: Labels, specs: Sequence[SegmentSpec], geometry: Geometry
) -> None:
    """Compare a written mask, voxel by voxel and in world coordinates, with its labels.

    Parameters
    ----------
    path : Path
        A BINARY or LABELMAP DICOM SEG.
    labels : Labels
    specs : sequence of SegmentSpec
        In segment order.
    geometry : Geometry
        The grid of the labels.

    Raises
    ------
    MaskMisplaced
        They differ.
    """
    found = np.zeros(len(specs), dtype=np.int64)
    with memory.collector_paused():
        for number, k, frame in _masks(pydicom.dcmread(path), len(specs), geometry):
            expected = labels_plane(labels, specs[number - 1].label_value, k)
            if not np.array_equal(frame, expected):
                raise MaskMisplaced(_sentence(f"segment {number} differs in slice {k}"))
            found[number - 1] += np.count_nonzero(frame)
    counts = labels.counts()
    for number, spec in enumerate(specs, start=1):
        expected_voxels = counts.get(spec.label_value, 0)
        if found[number - 1] != expected_voxels:
            raise MaskMisplaced(
                _sentence(f"segment {number} has {found[number - 1]} of {expected_voxels} voxels")
            )


def _masks(
    seg: Dataset, segments: int, geometry: Geometry
) -> Iterator[tuple[int, int, npt.NDArray[np.bool_]]]:
    """Give segment number, slice and mask of everything that the file holds."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    groups = seg.PerFrameFunctionalGroupsSequence
    if seg.SegmentationType == "LABELMAP":
        for index, group in enumerate(groups):
            values = np.asarray(pixel_array(seg, index=index))
            k = _slice_of(group, shared, geometry)
            for number in range(1, segments + 1):
                yield number, k, values == number
        return
    for frame, group in zip(_unpack(seg), groups, strict=True):
        yield _segment_number(group, shared), _slice_of(group, shared, geometry), frame


def labels_plane(labels: Labels, value: int, k: int) -> npt.NDArray[np.bool_]:
    """Give one slice of one label as a (rows, columns) picture."""
    if labels.is_overlapping:
        return np.asarray(labels.array[labels.values.index(value), :, :, k].T != 0)
    return np.asarray(value == labels.array[:, :, k].T)


def _unpack(seg: Dataset) -> npt.NDArray[np.bool_]:
    # Frames follow each other bit by bit, lowest bit first, without padding (PS3.5 8.1.1).
    shape = (int(seg.NumberOfFrames), int(seg.Rows), int(seg.Columns))
    bits = np.unpackbits(np.frombuffer(seg.PixelData, dtype=np.uint8), bitorder="little")
    return bits[: int(np.prod(shape))].reshape(shape).astype(bool)


def _segment_number(group: Dataset, shared: Dataset) -> int:
    return int(_macro(group, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)


def _slice_of(group: Dataset, shared: Dataset, geometry: Geometry) -> int:
    """Find the slice whose corners are this frame's corners in the world."""
    position = np.array(_macro(group, shared, "PlanePositionSequence").ImagePositionPatient, float)
    cosines = np.array(
        _macro(group, shared, "PlaneOrientationSequence").ImageOrientationPatient, float
    )
    row_spacing, column_spacing = map(
        float, _macro(group, shared, "PixelMeasuresSequence").PixelSpacing
    )
    last_column = (geometry.shape[0] - 1) * column_spacing * cosines[:3]
    last_row = (geometry.shape[1] - 1) * row_spacing * cosines[3:]
    corners = geometry.to_index([position, position + last_column, position + last_row])
    k = round(float(corners[0, 2]))
    expected = np.array(
        [[0, 0, k], [geometry.shape[0] - 1, 0, k], [0, geometry.shape[1] - 1, k]], float
    )
    apart = float(np.abs(corners - expected).max())
    if apart > PLACE_TOLERANCE_VOXELS or not 0 <= k < geometry.shape[2]:
        raise MaskMisplaced(_sentence(f"a frame lies {apart:.1f} voxels from its slice"))
    return k


def _macro(group: Dataset, shared: Dataset, keyword: str) -> Any:
    return (group.get(keyword) or shared.get(keyword))[0]


def _sentence(what: str) -> str:
    return (
        f"The mask that was written isn't the one that was found ({what}), so it was not sent; "
        "please report this with the series."
    )

"""Counts what a mask holds: voxels, millilitres, slices. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from worker.core.geometry import Geometry
from worker.core.job import SegmentMeasurement
from worker.core.segments import Labels, SegmentSpec


def measure(
    labels: Labels, specs: Sequence[SegmentSpec], geometry: Geometry
) -> tuple[SegmentMeasurement, ...]:
    """Count each segment's voxels; its volume is the count times the volume of one voxel."""
    counts = labels.counts()
    return tuple(
        SegmentMeasurement(
            number=number,
            label=spec.label,
            code={
                "value": spec.type.value,
                "scheme": spec.type.scheme,
                "meaning": spec.type.meaning,
            },
            voxels=counts.get(spec.label_value, 0),
            volume_ml=volume_ml(counts.get(spec.label_value, 0), geometry),
        )
        for number, spec in enumerate(specs, start=1)
    )


def volume_ml(voxels: int, geometry: Geometry) -> float:
    """Give the volume of a number of voxels, millilitres."""
    # A thousandth of a microlitre: below one voxel of any scanner, and without 502.51199999.
    return round(voxels * geometry.voxel_volume_ml, 6)


def union_of(labels: Labels, specs: Sequence[SegmentSpec]) -> npt.NDArray[np.bool_]:
    """Give the (I, J, K) mask of the voxels that belong to any of these segments."""
    if not labels.is_overlapping:
        return labels.recoded({spec.label_value: 1 for spec in specs}).astype(bool)
    union = np.zeros(labels.shape, dtype=bool, order="F")
    part = union[labels.box]
    for spec in specs:
        if spec.label_value in labels.values:
            part |= labels.array[labels.values.index(spec.label_value)][labels.box] != 0
    return union


def slice_extent(mask: npt.NDArray[np.bool_]) -> tuple[int | None, int | None]:
    """Give the first and the last slice with anything in it, from 0; None where there is none."""
    slices = np.flatnonzero(mask.any(axis=(0, 1)))
    return (int(slices[0]), int(slices[-1])) if slices.size else (None, None)

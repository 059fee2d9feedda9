"""Brings voxels from one grid onto another of the same frame of reference.

SimpleITK is imported only where grids differ: most cases never need its 264 MB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from worker.core.errors import SeriesInvalid
from worker.core.geometry import Geometry, Volume
from worker.core.segments import LabelArray

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - as everybody writes it


def check_comparable(moving: Geometry, target: Geometry, *, name: str) -> None:
    """Refuse a series that can't lie on the main series' grid.

    Raises
    ------
    SeriesInvalid
        `frame_of_reference_mismatch` or `no_overlap`.
    """
    if not moving.shares_frame_of_reference(target):
        raise SeriesInvalid(
            f"{name} was taken in another frame of reference than the main series, so the two "
            "can't be laid over each other; choose series of one examination.",
            code="frame_of_reference_mismatch",
        )
    if not target.overlaps(moving):
        raise SeriesInvalid(
            f"{name} doesn't overlap the main series anywhere; choose series of the same region.",
            code="no_overlap",
        )


def resample_image(
    volume: Volume, target: Geometry, *, out: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Resample an image onto another grid, linearly.

    Parameters
    ----------
    volume : Volume
    target : Geometry
        Must share the frame of reference and overlap (`check_comparable`).
    out : (I', J', K') float32, optional
        Where to write.

    Returns
    -------
    (I', J', K') float32
        0, the background of MR, outside `volume`.
    """
    import SimpleITK as sitk  # noqa: N813

    image = _resample(volume.array, volume.geometry, target, sitk.sitkLinear)
    if out is None:
        return np.asarray(_copy(image), dtype=np.float32)
    # A view on ITK's memory, copied once into its place.
    out[...] = sitk.GetArrayViewFromImage(image).transpose(2, 1, 0)
    return out


def resample_labels(labels: LabelArray, source: Geometry, target: Geometry) -> LabelArray:
    """Resample a label map onto another grid, nearest neighbour.

    Parameters
    ----------
    labels : (I, J, K) uint8 or uint16
        Axes column, row, slice; 0 = background.
    source, target : Geometry
        Must share the frame of reference.

    Returns
    -------
    (I', J', K') of the same type
        0 outside `source`.
    """
    import SimpleITK as sitk  # noqa: N813

    return _copy(_resample(labels, source, target, sitk.sitkNearestNeighbor))


def _copy(image: sitk.Image) -> npt.NDArray[Any]:
    import SimpleITK as sitk  # noqa: N813

    return np.asarray(sitk.GetArrayFromImage(image)).transpose(2, 1, 0)


def _resample(
    array: npt.NDArray[Any], source: Geometry, target: Geometry, interpolator: int
) -> sitk.Image:
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    _place(image, source)
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(target.shape)
    resampler.SetOutputOrigin(target.origin_mm.tolist())
    resampler.SetOutputSpacing(target.spacing_mm)
    resampler.SetOutputDirection(target.directions.ravel().tolist())
    resampler.SetInterpolator(interpolator)
    resampler.SetDefaultPixelValue(0.0)
    return resampler.Execute(image)


def _place(image: sitk.Image, geometry: Geometry) -> None:
    # ITK's world is LPS and its index order (i, j, k), as here; only arrays come transposed.
    image.SetOrigin(geometry.origin_mm.tolist())
    image.SetSpacing(geometry.spacing_mm)
    image.SetDirection(geometry.directions.ravel().tolist())

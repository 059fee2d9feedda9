"""A series as one NIfTI volume, for a viewer that shows three planes in the browser.

The slices are in the store's order (along the normal), so that index k of the third axis is slice k
of `slices.py` and frame k of the mask.
"""

from __future__ import annotations

import gzip
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, cast

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset, dcmread
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array

from django_queue_app.errors import ServiceError
from django_queue_app.frames import Slice, order_slices
from django_queue_app.pacs import get_pacs
from django_queue_app.pacs.header import frame_plane, item_of, numbers_of
from django_queue_app.pacs.ordering import normal_of
from django_queue_app.pacs.port import Cosines, SeriesDescription

# A gigabyte of 16-bit values: more than any MR series, less than what would end the site.
MAX_VOXELS = 1 << 29
_SCANNER = 1  # NIfTI's code for "scanner anatomical" coordinates
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class NoVolume(ServiceError):
    """The series can't be laid out as one volume."""

    code = "no_volume"
    http_status = 422
    default_message = "This series can't be shown in three planes; its slices can be shown singly."
    default_message_ko = "이 시리즈는 세 평면으로 표시할 수 없습니다. 슬라이스별로 볼 수 있습니다."


@dataclass(frozen=True, kw_only=True)
class _Plane:
    position: NDArray[np.float64]
    orientation: Cosines
    spacing: tuple[float, float]
    """Between rows, then between columns, mm."""


def read_volume(series_id: str) -> bytes:
    """Give a series as a gzipped NIfTI-1 file.

    Parameters
    ----------
    series_id : str
        Orthanc id of the series.

    Returns
    -------
    bytes
        Axes column, row, slice; the affine maps them to RAS, mm. Nothing of the patient stands in
        the header.

    Raises
    ------
    SeriesNotFound, InstanceNotFound, PacsUnavailable
    NoVolume
        Its slices differ in size, have no position, or can't be decoded.
    """
    description = get_pacs().describe_series(series_id)
    # By the instances, so that a series that still comes in is read again.
    return _read(series_id, tuple((one.id, one.sha256) for one in description.instances))


@lru_cache(maxsize=6)
def _read(series_id: str, _content: tuple[tuple[str, str], ...]) -> bytes:
    description = get_pacs().describe_series(series_id)
    slices = order_slices(description)
    _require_one_grid(description, len(slices))
    try:
        planes, values = _decode(slices)
    except ServiceError:
        raise
    except Exception as error:  # decoders raise nearly anything on hostile input
        raise NoVolume from error
    return _encode(values, _affine_ras(planes))


def _require_one_grid(description: SeriesDescription, count: int) -> None:
    shapes = {(one.rows, one.columns) for one in description.instances}
    if len(shapes) != 1:
        raise NoVolume
    rows, columns = shapes.pop()
    if not 0 < rows * columns * count <= MAX_VOXELS:
        raise NoVolume


def _decode(slices: Sequence[Slice]) -> tuple[list[_Plane], NDArray[Any]]:
    planes: list[_Plane] = []
    layers: list[NDArray[Any]] = []
    # Frames of one object lie together, so that it is read once.
    for instance_id, run in groupby(slices, key=lambda one: one.instance_id):
        dataset = dcmread(io.BytesIO(get_pacs().read_instance(instance_id)))
        for one in run:
            planes.append(_plane_of(dataset, one.frame))
            layers.append(modality_values(dataset, one.frame))
    return planes, np.stack(layers, axis=-1).transpose(1, 0, 2)


def modality_values(dataset: Dataset, frame: int) -> NDArray[Any]:
    """Decode one frame and apply its rescale: (rows, columns)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a vendor wrote oddly is shown all the same
        return np.asarray(apply_modality_lut(pixel_array(dataset, index=frame), dataset))


def pixel_spacing(dataset: FileDataset, frame: int) -> tuple[float, float] | None:
    """Give the spacing between rows, then between columns, mm; None where it is not told."""
    groups = [
        *item_of(dataset, "PerFrameFunctionalGroupsSequence", frame),
        *item_of(dataset, "SharedFunctionalGroupsSequence", 0),
    ]
    measures = [found for group in groups for found in item_of(group, "PixelMeasuresSequence", 0)]
    told = (numbers_of(one, "PixelSpacing", 2) for one in [*measures, dataset])
    spacing = next((found for found in told if found), None)
    if spacing is None or min(spacing) <= 0:
        return None
    return spacing[0], spacing[1]


def _plane_of(dataset: FileDataset, frame: int) -> _Plane:
    position, orientation = frame_plane(dataset, frame)
    spacing = pixel_spacing(dataset, frame)
    where = position or numbers_of(dataset, "ImagePositionPatient", 3)
    cosines = orientation or numbers_of(dataset, "ImageOrientationPatient", 6)
    if where is None or cosines is None or spacing is None:
        raise NoVolume
    return _Plane(
        position=np.asarray(where),
        orientation=cast(Cosines, cosines),
        spacing=spacing,
    )


def _affine_ras(planes: Sequence[_Plane]) -> NDArray[np.float64]:
    """Map (column, row, slice) to RAS, mm. DICOM PS3.3 C.7.6.2.1.1."""
    first, last = planes[0], planes[-1]
    along_row, along_column = np.asarray(first.orientation[:3]), np.asarray(first.orientation[3:])
    step: NDArray[np.float64] = np.asarray(normal_of(first.orientation))
    if len(planes) > 1:
        step = (last.position - first.position) / (len(planes) - 1)
    affine = np.eye(4)
    affine[:3, 0] = along_row * first.spacing[1]
    affine[:3, 1] = along_column * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    if abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise NoVolume
    return np.asarray(_RAS_FROM_LPS @ affine)


def _encode(values: NDArray[Any], affine: NDArray[np.float64]) -> bytes:
    image = nib.Nifti1Image(_compact(values), affine)
    image.set_qform(affine, code=_SCANNER)
    image.set_sform(affine, code=_SCANNER)
    image.header.set_xyzt_units(xyz="mm")
    # Level 1: the browser waits for this, and a higher level saves little of an MR series.
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def _compact(values: NDArray[Any]) -> NDArray[Any]:
    """Give whole numbers that fit as int16, anything else as float32."""
    limits = np.iinfo(np.int16)
    is_whole = np.issubdtype(values.dtype, np.integer) or bool(np.all(values == np.rint(values)))
    if is_whole and values.min() >= limits.min and values.max() <= limits.max:
        return values.astype(np.int16)
    return values.astype(np.float32)

"""Slices of a series as PNG, for a viewer without WebGL and for the page's overlay.

The order is the store's (along the normal), so that slice N here is frame N of the mask.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread

from django_queue_app.errors import ServiceError
from django_queue_app.frames import order_slices
from django_queue_app.pacs import get_pacs
from django_queue_app.pacs.port import InstanceNotFound, SeriesDescription
from django_queue_app.volumes import modality_values, pixel_spacing

# The patient directions of +x, +y, +z in DICOM's LPS coordinates.
POSITIVE_LETTERS = "LPS"
NEGATIVE_LETTERS = "RAI"
PERCENTILES = (1.0, 99.5)  # of one slice's non-zero values, when the series brings no window
# A decoder makes room for what the header says, whatever the file holds.
MAX_PIXELS = 1 << 26


class NoPicture(ServiceError):
    """The pixels of a slice can't be read."""

    code = "no_picture"
    http_status = 422
    default_message = "This slice can't be shown: its pixels can't be read. Export the series anew."
    default_message_ko = "픽셀을 읽을 수 없어 표시할 수 없습니다. 시리즈를 다시 내보내십시오."


@dataclass(frozen=True, kw_only=True)
class SliceGrid:
    """How the slices of a series are shown: size in pixels, spacing in mm, edge letters.

    `spacing_mm` is that between rows, then between columns; of squares where it is not told.
    """

    slices: int
    rows: int
    columns: int
    spacing_mm: tuple[float, float]
    letters: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Give the body of the viewer's call."""
        return {
            "slices": self.slices,
            "rows": self.rows,
            "columns": self.columns,
            "spacing_mm": list(self.spacing_mm),
            "letters": self.letters,
        }


def describe_slices(series_id: str) -> SliceGrid:
    """Describe the slices of a series. Raises SeriesNotFound."""
    description = get_pacs().describe_series(series_id)
    first = description.instances[0]
    orientation = next(
        (item.orientation for item in description.instances if item.orientation), None
    )
    return SliceGrid(
        slices=sum(max(item.frames, 1) for item in description.instances),
        rows=first.rows or 0,
        columns=first.columns or 0,
        spacing_mm=_spacing_of(first.id),
        letters=edge_letters(orientation) if orientation else _no_letters(),
    )


@lru_cache(maxsize=512)
def _spacing_of(instance_id: str) -> tuple[float, float]:
    data = io.BytesIO(get_pacs().read_instance(instance_id))
    try:
        spacing = pixel_spacing(dcmread(data, stop_before_pixels=True), 0)
    except Exception:  # as of pixels: parsers raise nearly anything on hostile input
        spacing = None
    return spacing or (1.0, 1.0)


def edge_letters(orientation: Sequence[float]) -> dict[str, str]:
    """Name the four edges of a slice by the patient direction that they point to.

    Parameters
    ----------
    orientation : sequence of 6 float
        ImageOrientationPatient: the direction of increasing column index, then of row index, LPS.

    References
    ----------
    DICOM PS3.3 C.7.6.1.1.1 and C.7.6.2.1.1
    """
    right, bottom = np.asarray(orientation[:3]), np.asarray(orientation[3:])
    return {
        "right": _letter(right),
        "left": _letter(-right),
        "bottom": _letter(bottom),
        "top": _letter(-bottom),
    }


def _letter(direction: NDArray[Any]) -> str:
    axis = int(np.argmax(np.abs(direction)))
    return POSITIVE_LETTERS[axis] if direction[axis] > 0 else NEGATIVE_LETTERS[axis]


def _no_letters() -> dict[str, str]:
    return {"right": "", "left": "", "bottom": "", "top": ""}


Window = tuple[float, float]


def render_slice(series_id: str, index: int) -> bytes:
    """Render one slice as an 8-bit PNG of the source's rows and columns.

    Parameters
    ----------
    series_id : str
        Orthanc id of the series.
    index : int
        From 0, along the normal.

    Raises
    ------
    SeriesNotFound, InstanceNotFound
        No such series, or no such slice in it.
    NoPicture
        Its pixels can't be read.
    """
    return _render(*_locate(get_pacs().describe_series(series_id), index))


# By instance, whose content never changes. Which slice is the Nth does: a series still coming in
# grows in the middle, and a remembered Nth slice would then lie under another slice's mask.
@lru_cache(maxsize=512)
def _render(instance_id: str, frame: int) -> bytes:
    data = get_pacs().read_instance(instance_id)
    try:
        return _draw(dcmread(io.BytesIO(data)), frame)
    except Exception as error:  # decoders raise nearly anything on hostile input
        raise NoPicture from error


def _draw(dataset: Dataset, frame: int) -> bytes:
    if not 0 < int(dataset.Rows) * int(dataset.Columns) <= MAX_PIXELS:
        raise NoPicture
    values = modality_values(dataset, frame).astype(np.float32)
    picture = io.BytesIO()
    Image.fromarray(_windowed(values, _window(values, dataset))).save(picture, "PNG")
    return picture.getvalue()


def _locate(description: SeriesDescription, index: int) -> tuple[str, int]:
    ordered = order_slices(description)
    if not 0 <= index < len(ordered):
        raise InstanceNotFound(
            "The series has no such slice.", "시리즈에 그런 슬라이스가 없습니다."
        )
    return ordered[index].instance_id, ordered[index].frame


def _windowed(values: NDArray[np.float32], window: Window) -> NDArray[np.uint8]:
    low, high = window
    scaled = (values - low) / max(high - low, 1e-6)
    return np.asarray(np.clip(scaled, 0, 1) * 255, np.uint8)


def _window(values: NDArray[np.float32], dataset: Dataset) -> Window:
    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if center is not None and width:
        return center - width / 2, center + width / 2
    inside = values[values > 0]
    if not inside.size:
        return float(values.min()), float(values.max())
    low, high = np.percentile(inside, PERCENTILES)
    return min(float(low), 0.0), float(high)


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value)

"""Draws the picture of a result, in plain Pillow: three planes, slices through the finding, legend.

Nothing of the patient is written into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from worker.adapters.dicom_seg import segment_color
from worker.adapters.preview_planes import (
    BACKGROUND,
    PLANES,
    TEXT,
    LpsView,
    Plane,
    Scene,
    draw_plane,
    draw_tile,
    window_of,
)
from worker.adapters.preview_text import drawable, font_for, label_of, wrapped
from worker.core.geometry import Volume
from worker.core.job import SegmentMeasurement
from worker.core.segments import Box, LabelArray, Labels, SegmentSpec, bounding_box

_PANEL_PX = 360
_GAP_PX = 12
_LINE_PX = 24
_TILES = 6
_TILE_PX = 174  # six and five gaps are as wide as three panels and two
_WARNING = (255, 190, 80)
_DIM = (150, 156, 164)
# A tile shows at least this much, so that a small lesion is seen in its surroundings.
_LEAST_TILE_MM = 70.0
# Noisy pictures become no smaller above it, and take ten times as long (docs/performance.md).
_PNG_LEVEL = 3
_LEGEND_ROWS = 4  # of one column; more segments make a second column

_Mask = npt.NDArray[np.bool_]


def write_preview(
    path: Path,
    *,
    volume: Volume,
    labels: Labels,
    specs: Sequence[SegmentSpec],
    measurements: Sequence[SegmentMeasurement],
    title: str,
    notices: Sequence[str] = (),
) -> bytes:
    """Draw image, mask and legend into a PNG file.

    Parameters
    ----------
    volume : Volume
        The main series.
    labels : Labels
        On the volume's grid.
    specs, measurements : sequences
        One each per segment, in segment order.
    title : str
        Model and version.
    notices : sequence of str
        Shown in full ("not for clinical use"), as what a person must know of the model.

    Returns
    -------
    bytes
        The same picture as PNG without the legend, for a page that has one of its own.
    """
    to_lps = LpsView(volume.geometry)
    image = to_lps.view(volume.array)
    scene = Scene(
        image=image,
        numbers=to_lps.view(_segment_numbers(labels, specs)),
        spacing_mm=to_lps.spacing_mm,
        window=window_of(image),
        colors=_palette(specs),
    )
    shown = _largest(scene.numbers, specs)
    at = _focus(shown, scene.spacing_mm)
    pictures = [_planes(scene, at), _montage(scene, to_lps, shown, at)]
    legend = _legend(specs, measurements, title, wrapped(notices))
    _stack([*pictures, legend]).save(path, compress_level=_PNG_LEVEL)
    bare = BytesIO()
    _stack(pictures).save(bare, format="PNG", compress_level=_PNG_LEVEL)
    return bare.getvalue()


def _segment_numbers(labels: Labels, specs: Sequence[SegmentSpec]) -> LabelArray:
    """Give one (I, J, K) array of segment numbers; where masks overlap the smaller one wins."""
    if not labels.is_overlapping:
        return labels.recoded({spec.label_value: n for n, spec in enumerate(specs, start=1)})
    numbers = np.zeros(labels.shape, dtype=np.uint8, order="F")
    part = numbers[labels.box]
    masks = [
        (number, labels.array[labels.values.index(spec.label_value)][labels.box])
        for number, spec in enumerate(specs, start=1)
        if spec.label_value in labels.values
    ]
    for number, mask in sorted(masks, key=lambda item: -int(np.count_nonzero(item[1]))):
        part[mask != 0] = number
    return numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class _Finding:
    """What the picture is centred on: a mask in a box of the LPS view; empty where nothing is."""

    shape: tuple[int, ...]  # of the whole view
    box: Box
    mask: _Mask  # in the box

    def hits(self, axis: int) -> npt.NDArray[np.intp]:
        """Give the indices along an axis of the view where anything is."""
        others = tuple(other for other in range(3) if other != axis)
        hits = np.flatnonzero(self.mask.any(axis=others))
        return np.asarray(hits + self.box[axis].start)

    def indices(self) -> npt.NDArray[np.intp]:
        """Give the (M, 3) indices in the view of every voxel."""
        start = np.array([side.start for side in self.box])
        return np.asarray(np.argwhere(self.mask) + start)


def _largest(numbers: npt.NDArray[np.generic], specs: Sequence[SegmentSpec]) -> _Finding:
    """Give the largest lesion; without any, the largest of what else was found; else nothing."""
    is_tumor = np.array([False, *(spec.counts_as_tumor for spec in specs)])
    box = bounding_box(numbers)
    part = numbers[box]
    mask: _Mask = is_tumor[part]
    if not mask.any():
        mask = np.asarray(part != 0)
    if mask.any():
        parts, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel(order="K"))
        sizes[0] = 0
        mask = np.asarray(parts == sizes.argmax())
    return _Finding(shape=numbers.shape, box=box, mask=mask)


def _focus(shown: _Finding, spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """Choose the voxel to cut through: the finding's own one that is nearest to its centroid."""
    indices = shown.indices()
    if not indices.size:
        return tuple(size // 2 for size in shown.shape)
    away = ((indices - indices.mean(axis=0)) * np.array(spacing_mm)) ** 2
    i, j, k = indices[int(away.sum(axis=1).argmin())].tolist()
    return (i, j, k)


def _palette(specs: Sequence[SegmentSpec]) -> npt.NDArray[np.float32]:
    rows = [(0, 0, 0), *(segment_color(spec, n) for n, spec in enumerate(specs, start=1))]
    return np.array(rows, dtype=np.float32)


def _planes(scene: Scene, at: tuple[int, ...]) -> Image.Image:
    """Draw the three planes side by side, all at one scale."""
    extents = [size * step for size, step in zip(scene.image.shape, scene.spacing_mm, strict=True)]
    px_per_mm = _PANEL_PX / max(extents)
    row = _row(_PANEL_PX + _LINE_PX)
    draw = ImageDraw.Draw(row)
    for index, plane in enumerate(PLANES):
        left = _GAP_PX + index * (_PANEL_PX + _GAP_PX)
        panel = draw_plane(scene, plane, at, side_px=_PANEL_PX, px_per_mm=px_per_mm)
        row.paste(panel, (left, 0))
        place = (left + _PANEL_PX // 2, _PANEL_PX + 4)
        draw.text(place, plane.name, fill=_DIM, font=font_for(plane.name), anchor="ma")
    return row


def _montage(scene: Scene, to_lps: LpsView, shown: _Finding, at: tuple[int, ...]) -> Image.Image:
    """Draw slices of the acquisition through the finding, or through the volume without one."""
    plane = to_lps.acquired_plane
    crop = _crop(scene, plane, shown)
    extents = [
        (part.stop - part.start) * scene.spacing_mm[axis]
        for part, axis in zip(crop, (plane.across, plane.down), strict=True)
    ]
    px_per_mm = _TILE_PX / max(extents)
    height = min(_TILE_PX, max(60, round(extents[1] * px_per_mm)))
    row = _row(height)
    for index, place in enumerate(_tile_places(shown, plane)):
        through = tuple(place if axis == plane.cut else at[axis] for axis in range(3))
        tile = draw_tile(
            scene,
            plane,
            through,
            crop,
            size_px=(_TILE_PX, height),
            px_per_mm=px_per_mm,
            caption=f"slice {to_lps.slice_number(place)}",
        )
        row.paste(tile, (_GAP_PX + index * (_TILE_PX + _GAP_PX), 0))
    return row


def _tile_places(shown: _Finding, plane: Plane) -> list[int]:
    """Spread the slices evenly over the finding; a thin one gets its neighbours, too."""
    hit = shown.hits(plane.cut)
    count = shown.shape[plane.cut]
    first, last = (int(hit[0]), int(hit[-1])) if hit.size else (count // 8, count - 1 - count // 8)
    missing = _TILES - (last - first + 1)
    if missing > 0:
        first = max(0, min(first - missing // 2, count - _TILES))
        last = min(count - 1, first + _TILES - 1)
    # The middles of equal parts: the finding's very ends show next to nothing of it.
    middles = first + (np.arange(_TILES) + 0.5) * (last - first + 1) / _TILES - 0.5
    return list(dict.fromkeys(np.clip(np.rint(middles), 0, count - 1).astype(int).tolist()))


def _crop(scene: Scene, plane: Plane, shown: _Finding) -> tuple[slice, slice]:
    """Choose the part of the plane around the finding, all of it where there is none."""
    across, down = (
        _reach(shown, axis, scene.spacing_mm[axis]) for axis in (plane.across, plane.down)
    )
    return across, down


def _reach(shown: _Finding, axis: int, spacing_mm: float) -> slice:
    size = shown.shape[axis]
    hit = shown.hits(axis)
    if not hit.size:
        return slice(0, size)
    wanted = max(1.4 * (hit[-1] - hit[0] + 1), _LEAST_TILE_MM / spacing_mm)
    wide = min(size, round(wanted))
    start = min(max(0, round((hit[0] + hit[-1] + 1 - wide) / 2)), size - wide)
    return slice(start, start + wide)


def _legend(
    specs: Sequence[SegmentSpec],
    measurements: Sequence[SegmentMeasurement],
    title: str,
    notices: Sequence[str],
) -> Image.Image:
    rows = max(1, min(len(specs), max(_LEGEND_ROWS, -(-len(specs) // 2))))
    sheet = _row((rows + 2 + len(notices)) * _LINE_PX + _GAP_PX)
    draw = ImageDraw.Draw(sheet)
    headline = _headline(specs, measurements)
    draw.text((_GAP_PX, 0), headline, fill=TEXT, font=font_for(headline, 18))
    name = drawable(title)
    right = sheet.width - _GAP_PX
    draw.text((right, 2), name, fill=_DIM, font=font_for(name), anchor="ra")
    for index, (spec, item) in enumerate(zip(specs, measurements, strict=True)):
        left = _GAP_PX + (index // rows) * (sheet.width // 2)
        _draw_segment(draw, (left, (1 + index % rows) * _LINE_PX + 4), index + 1, spec, item)
    top = (rows + 1) * _LINE_PX + _GAP_PX
    note = "Radiological convention: the patient's right is on the left of the picture."
    draw.text((_GAP_PX, top), note, fill=_DIM, font=font_for(note))
    draw.text((right, top), "Research use only", fill=_WARNING, font=font_for(""), anchor="ra")
    for text in notices:
        top += _LINE_PX
        draw.text((_GAP_PX, top), text, fill=_WARNING, font=font_for(text))
    return sheet


def _headline(specs: Sequence[SegmentSpec], measurements: Sequence[SegmentMeasurement]) -> str:
    found = sum(item.voxels for item in measurements)
    tumors = [item for spec, item in zip(specs, measurements, strict=True) if spec.counts_as_tumor]
    if tumors and not sum(item.voxels for item in tumors):
        return "No lesion found"
    return "Segments" if found else "Nothing found"


def _draw_segment(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    number: int,
    spec: SegmentSpec,
    item: SegmentMeasurement,
) -> None:
    left, top = place
    draw.rectangle((left, top + 2, left + 16, top + 18), fill=segment_color(spec, number))
    text = f"{number}  {label_of(spec)}"
    draw.text((left + 26, top), text, fill=TEXT, font=font_for(text))
    amount = f"{item.volume_ml:,.2f} mL"
    draw.text((left + 400, top), amount, fill=TEXT, font=font_for(amount), anchor="ra")


def _row(height_px: int) -> Image.Image:
    width = len(PLANES) * (_PANEL_PX + _GAP_PX) + _GAP_PX
    return Image.new("RGB", (width, height_px), BACKGROUND)


def _stack(pictures: Sequence[Image.Image]) -> Image.Image:
    height = sum(picture.height + _GAP_PX for picture in pictures) + _GAP_PX
    sheet = Image.new("RGB", (pictures[0].width, height), BACKGROUND)
    top = _GAP_PX
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height + _GAP_PX
    return sheet

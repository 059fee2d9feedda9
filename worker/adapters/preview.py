"""Draws the picture of a result: three planes through the largest finding, in plain Pillow.

The planes are those of the acquisition closest to axial, coronal and sagittal, never resampled to
another angle, so what is seen is what was measured. Radiological convention: the patient's right is
on the left of the picture. Nothing of the patient is written into it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from worker.adapters.dicom_seg import segment_color
from worker.core.geometry import Geometry, Volume, closest_anatomical_axes
from worker.core.job import SegmentMeasurement
from worker.core.segments import LabelArray, Labels, SegmentSpec

_PANEL_PX = 360  # longest side of one plane
_GAP_PX = 12
# Of the sheet's width, in the wider of the fonts.
_LINE_CHARS = 110
_LINE_PX = 24
_FONT_PX = 15
_BACKGROUND = (12, 14, 18)
_TEXT = (225, 228, 232)
_WARNING = (255, 190, 80)
_OPACITY = 0.38

_BLACK_PERCENTILE = 1.0  # of all voxels
_WHITE_PERCENTILE = 99.5  # of those brighter than the background

# Fonts with Hangul, by the names under which Linux, Windows and macOS install them.
_KOREAN_FONTS = (
    "NanumGothic.ttf",
    "NotoSansKR-Regular.otf",
    "NotoSansCJK-Regular.ttc",
    "malgun.ttf",
    "AppleSDGothicNeo.ttc",
)

Picture = npt.NDArray[np.uint8]
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, kw_only=True)
class _Plane:
    """One plane in radiological convention: which LPS axis it cuts, and its four letters."""

    name: str
    cut: int  # axis of (left, posterior, superior) that the plane is perpendicular to
    across: int  # axis that runs to the right of the picture, growing
    down: int  # axis that runs down the picture
    down_sign: int  # 1 when it grows downwards
    letters: tuple[str, str, str, str]  # left, right, top, bottom


# Across always grows to the right of the picture: left of the patient in axial and coronal planes,
# posterior in sagittal ones. Superior is up, so its index is walked backwards.
_PLANES = (
    _Plane(name="axial", cut=2, across=0, down=1, down_sign=1, letters=("R", "L", "A", "P")),
    _Plane(name="coronal", cut=1, across=0, down=2, down_sign=-1, letters=("R", "L", "S", "I")),
    _Plane(name="sagittal", cut=0, across=1, down=2, down_sign=-1, letters=("A", "P", "S", "I")),
)


def write_preview(
    path: Path,
    *,
    volume: Volume,
    labels: Labels,
    specs: Sequence[SegmentSpec],
    measurements: Sequence[SegmentMeasurement],
    title: str,
    notices: Sequence[str] = (),
) -> None:
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
    """
    numbers = _segment_numbers(labels, specs)
    to_lps = _LpsView(volume.geometry)
    image, mask = to_lps.view(volume.array), to_lps.view(numbers)
    at = _focus(mask, specs)
    low, high = _window(image)
    colors = _palette(specs)
    panels = [
        _draw_plane(plane, image, mask, at, to_lps.spacing_mm, (low, high), colors)
        for plane in _PLANES
    ]
    _compose(panels, specs, measurements, title, _wrapped(notices)).save(path)


class _LpsView:
    """Shows arrays with the axes (left, posterior, superior), by turning, not by resampling."""

    def __init__(self, geometry: Geometry) -> None:
        self._axes = closest_anatomical_axes(geometry)
        spacing = geometry.spacing_mm
        self.spacing_mm = tuple(spacing[axis] for axis, _ in self._axes)

    def view(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        turned = array.transpose([axis for axis, _ in self._axes])
        return turned[tuple(slice(None, None, sign) for _, sign in self._axes)]


def _segment_numbers(labels: Labels, specs: Sequence[SegmentSpec]) -> LabelArray:
    """Give one (I, J, K) array of segment numbers; where masks overlap the smaller one wins."""
    if not labels.is_overlapping:
        return labels.recoded({spec.label_value: n for n, spec in enumerate(specs, start=1)})
    numbers = np.zeros(labels.shape, dtype=np.uint8, order="F")
    masks = [(number, labels.mask(spec.label_value)) for number, spec in enumerate(specs, start=1)]
    for number, mask in sorted(masks, key=lambda item: -int(np.count_nonzero(item[1]))):
        numbers[mask] = number
    return numbers


def _focus(mask: npt.NDArray[np.generic], specs: Sequence[SegmentSpec]) -> tuple[int, ...]:
    """Choose the voxel to cut through: in each direction the slice that shows most.

    Tumours come before other segments; without any finding it is the middle.
    """
    is_tumor = np.array([False, *(spec.counts_as_tumor for spec in specs)])
    shown = is_tumor[mask]
    if not shown.any():
        shown = mask != 0
    if not shown.any():
        return tuple(size // 2 for size in mask.shape)
    # One plane first, then the others inside it, so that all three meet inside one lesion.
    k = int(shown.sum(axis=(0, 1)).argmax())
    j = int(shown[:, :, k].sum(axis=0).argmax())
    columns = np.flatnonzero(shown[:, j, k])
    return (int(columns[columns.size // 2]), j, k)


def _window(image: npt.NDArray[np.generic]) -> tuple[float, float]:
    # Every fourth voxel each way is plenty for two percentiles.
    sample = image[::4, ::4, ::4].astype(np.float32)
    tissue = sample[sample > sample.min()]
    if not tissue.size:
        return (0.0, 1.0)
    # Black is the background, white the brightest tissue but for outliers (vessels, fat).
    low = float(np.percentile(sample, _BLACK_PERCENTILE))
    return (low, max(float(np.percentile(tissue, _WHITE_PERCENTILE)), low + 1e-6))


def _palette(specs: Sequence[SegmentSpec]) -> npt.NDArray[np.float32]:
    rows = [(0, 0, 0), *(segment_color(spec, n) for n, spec in enumerate(specs, start=1))]
    return np.array(rows, dtype=np.float32)


def _draw_plane(
    plane: _Plane,
    image: npt.NDArray[np.generic],
    mask: npt.NDArray[np.generic],
    at: tuple[int, ...],
    spacing_mm: tuple[float, ...],
    window: tuple[float, float],
    colors: npt.NDArray[np.float32],
) -> Image.Image:
    grey = np.clip((_cut(image, plane, at).astype(np.float32) - window[0]), 0, None)
    grey = np.clip(grey / (window[1] - window[0]), 0, 1) * 255
    size = _size_px(grey.shape, spacing_mm[plane.across], spacing_mm[plane.down])
    picture = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    found = Image.fromarray(_cut(mask, plane, at).astype(np.uint8))
    overlaid = _overlay(picture, found.resize(size, Image.Resampling.NEAREST), colors)
    return _with_letters(overlaid, plane)


def _cut(
    array: npt.NDArray[np.generic], plane: _Plane, at: tuple[int, ...]
) -> npt.NDArray[np.generic]:
    """Take one plane out of an LPS view, as (down, across)."""
    cut = np.take(array, at[plane.cut], axis=plane.cut)
    # The two axes that are left keep their order; across always comes before down in _PLANES.
    return np.asarray(cut.T[:: plane.down_sign])


def _size_px(shape: tuple[int, ...], across_mm: float, down_mm: float) -> tuple[int, int]:
    width_mm, height_mm = shape[1] * across_mm, shape[0] * down_mm
    scale = _PANEL_PX / max(width_mm, height_mm)
    return (max(1, round(width_mm * scale)), max(1, round(height_mm * scale)))


def _overlay(
    picture: Image.Image, found: Image.Image, colors: npt.NDArray[np.float32]
) -> Image.Image:
    grey = np.asarray(picture, dtype=np.float32)[..., np.newaxis].repeat(3, axis=-1)
    numbers = np.asarray(found)
    opacity = np.where(_edges(numbers), 1.0, _OPACITY)[..., np.newaxis]
    blended = grey * (1 - opacity) + colors[numbers] * opacity
    return Image.fromarray(np.where(numbers[..., np.newaxis] > 0, blended, grey).astype(np.uint8))


def _edges(numbers: Picture) -> npt.NDArray[np.bool_]:
    """Mark the pixels that have a neighbour of another segment."""
    edges = np.zeros(numbers.shape, dtype=bool)
    across, down = numbers[:, 1:] != numbers[:, :-1], numbers[1:] != numbers[:-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    return edges


def _with_letters(picture: Image.Image, plane: _Plane) -> Image.Image:
    panel = Image.new("RGB", (_PANEL_PX, _PANEL_PX + _LINE_PX), _BACKGROUND)
    left, top = (_PANEL_PX - picture.width) // 2, (_PANEL_PX - picture.height) // 2
    panel.paste(picture, (left, top))
    draw = ImageDraw.Draw(panel)
    font = _font(ascii_only=True)
    middle, edge = _PANEL_PX // 2, 4
    places = (
        ((edge, middle), "lm"),
        ((_PANEL_PX - edge, middle), "rm"),
        ((middle, edge), "ma"),
        ((middle, _PANEL_PX - edge), "md"),
    )
    for letter, (place, anchor) in zip(plane.letters, places, strict=True):
        draw.text(
            place,
            letter,
            fill=_TEXT,
            font=font,
            anchor=anchor,
            stroke_width=2,
            stroke_fill=_BACKGROUND,
        )
    draw.text((middle, _PANEL_PX + 4), plane.name, fill=_TEXT, font=font, anchor="ma")
    return panel


def _compose(
    panels: Sequence[Image.Image],
    specs: Sequence[SegmentSpec],
    measurements: Sequence[SegmentMeasurement],
    title: str,
    notices: Sequence[str],
) -> Image.Image:
    lines = max(1, len(specs)) + 2 + len(notices)
    width = len(panels) * _PANEL_PX + (len(panels) + 1) * _GAP_PX
    height = panels[0].height + (lines + 1) * _LINE_PX + 2 * _GAP_PX
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    for index, panel in enumerate(panels):
        sheet.paste(panel, (_GAP_PX + index * (_PANEL_PX + _GAP_PX), _GAP_PX))
    _draw_legend(sheet, panels[0].height + 2 * _GAP_PX, specs, measurements, title, notices)
    return sheet


def _draw_legend(
    sheet: Image.Image,
    top: int,
    specs: Sequence[SegmentSpec],
    measurements: Sequence[SegmentMeasurement],
    title: str,
    notices: Sequence[str],
) -> None:
    draw = ImageDraw.Draw(sheet)
    font = _font(ascii_only=True)
    found = sum(item.voxels for item in measurements)
    draw.text((_GAP_PX, top), _drawable(title), fill=_TEXT, font=font)
    top += _LINE_PX
    for number, (spec, item) in enumerate(zip(specs, measurements, strict=True), start=1):
        box = (_GAP_PX, top + 2, _GAP_PX + 16, top + 18)
        draw.rectangle(box, fill=segment_color(spec, number))
        text = f"{number}  {_label(spec)}: {item.volume_ml:.2f} mL"
        draw.text((_GAP_PX + 26, top), text, fill=_TEXT, font=_font_for(text))
        top += _LINE_PX
    note = "Radiological convention: the patient's right is on the left of the picture."
    nothing = "" if found else "Nothing was found. "
    draw.text((_GAP_PX, top), nothing + note, fill=_TEXT, font=font)
    for text in notices:
        top += _LINE_PX
        draw.text((_GAP_PX, top), text, fill=_WARNING, font=_font_for(text))


def _wrapped(notices: Sequence[str]) -> list[str]:
    return [line for text in notices for line in textwrap.wrap(_drawable(text), _LINE_CHARS)]


def _label(spec: SegmentSpec) -> str:
    """Give the label, or its code's meaning where no font here can draw it."""
    return spec.label if _can_draw(spec.label) else _drawable(spec.type.meaning)


def _drawable(text: str) -> str:
    if _can_draw(text):
        return text
    latin = " ".join(text.encode("ascii", errors="ignore").decode().split())
    return latin if any(char.isalpha() for char in latin) else "(see report.json)"


def _can_draw(text: str) -> bool:
    return text.isascii() or _korean_font() is not None


def _font_for(text: str) -> _Font:
    return _font(ascii_only=text.isascii())


def _font(*, ascii_only: bool) -> _Font:
    korean = None if ascii_only else _korean_font()
    return korean or ImageFont.load_default(_FONT_PX)


def _korean_font() -> ImageFont.FreeTypeFont | None:
    for name in _KOREAN_FONTS:
        try:
            return ImageFont.truetype(name, _FONT_PX)
        except OSError:
            continue
    return None

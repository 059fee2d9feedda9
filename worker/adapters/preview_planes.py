"""Planes of a volume as pictures: grey image, coloured mask, letters, scale.

The planes are those of the acquisition closest to axial, coronal and sagittal, never resampled to
another angle, so what is seen is what was measured. Radiological convention: the patient's right is
on the left of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from worker.adapters.preview_text import font_for
from worker.core.geometry import Geometry, closest_anatomical_axes

BACKGROUND = (12, 14, 18)
TEXT = (225, 228, 232)
_DIM = (150, 156, 164)
_CROSS = (110, 170, 255)
_CROSS_PX, _LETTER_PX = 18, 22
_OPACITY = 0.38
_SCALES_MM = (100, 50, 20, 10, 5)

_BLACK_PERCENTILE = 1.0  # of all voxels
_WHITE_PERCENTILE = 99.5  # of those brighter than the background

Array = npt.NDArray[np.generic]
Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Plane:
    """One plane in radiological convention: which LPS axis it cuts, and its four letters."""

    name: str
    cut: int  # axis of (left, posterior, superior) that the plane is perpendicular to
    across: int  # axis that runs to the right of the picture, growing
    down: int  # axis that runs down the picture
    down_sign: int  # 1 when it grows downwards
    letters: tuple[str, str, str, str]  # left, right, top, bottom


# Across always grows to the right of the picture: left of the patient in axial and coronal planes,
# posterior in sagittal ones. Superior is up, so its index is walked backwards.
PLANES = (
    Plane(name="axial", cut=2, across=0, down=1, down_sign=1, letters=("R", "L", "A", "P")),
    Plane(name="coronal", cut=1, across=0, down=2, down_sign=-1, letters=("R", "L", "S", "I")),
    Plane(name="sagittal", cut=0, across=1, down=2, down_sign=-1, letters=("A", "P", "S", "I")),
)


class LpsView:
    """Shows arrays with the axes (left, posterior, superior), by turning, not by resampling."""

    def __init__(self, geometry: Geometry) -> None:
        self._axes = closest_anatomical_axes(geometry)
        spacing = geometry.spacing_mm
        self.spacing_mm = tuple(spacing[axis] for axis, _ in self._axes)
        self._slices = geometry.shape[2]

    def view(self, array: Array) -> Array:
        """Turn an (I, J, K) array."""
        turned = array.transpose([axis for axis, _ in self._axes])
        return turned[tuple(slice(None, None, sign) for _, sign in self._axes)]

    @property
    def acquired_plane(self) -> Plane:
        """The plane in which the series was taken."""
        (cut,) = (world for world, (axis, _) in enumerate(self._axes) if axis == 2)
        return next(plane for plane in PLANES if plane.cut == cut)

    def slice_number(self, place: int) -> int:
        """Give the number, from 1 along the normal, of a place along the acquired plane's cut."""
        sign = self._axes[self.acquired_plane.cut][1]
        return place + 1 if sign > 0 else self._slices - place


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """What is drawn: image and segment numbers in an LPS view, and how."""

    image: Array
    numbers: Array
    spacing_mm: tuple[float, ...]
    window: tuple[float, float]
    colors: npt.NDArray[np.float32]


def window_of(image: Array) -> tuple[float, float]:
    """Give the values shown as black and as white."""
    # Every fourth voxel each way is plenty for two percentiles.
    sample = image[::4, ::4, ::4].astype(np.float32)
    tissue = sample[sample > sample.min()]
    if not tissue.size:
        return (0.0, 1.0)
    # Black is the background, white the brightest tissue but for outliers (vessels, fat).
    low = float(np.percentile(sample, _BLACK_PERCENTILE))
    return (low, max(float(np.percentile(tissue, _WHITE_PERCENTILE)), low + 1e-6))


def draw_plane(
    scene: Scene, plane: Plane, at: tuple[int, ...], *, side_px: int, px_per_mm: float
) -> Image.Image:
    """Draw a whole plane through `at` into a square, with cross, letters and a scale."""
    picture, box = _square(_render(scene, plane, at, px_per_mm), side_px)
    draw = ImageDraw.Draw(picture, "RGBA")
    _draw_cross(draw, scene, plane, at, box)
    _draw_letters(draw, plane, side_px)
    _draw_scale(draw, px_per_mm, side_px)
    return picture


def draw_tile(
    scene: Scene,
    plane: Plane,
    at: tuple[int, ...],
    crop: tuple[slice, slice],
    *,
    size_px: tuple[int, int],
    px_per_mm: float,
    caption: str,
) -> Image.Image:
    """Draw a part of a plane, `crop` of (across, down) voxels, with a caption and a scale."""
    cut: list[slice] = [slice(None)] * 3
    cut[plane.across], cut[plane.down] = crop
    part = Scene(
        image=scene.image[tuple(cut)],
        numbers=scene.numbers[tuple(cut)],
        spacing_mm=scene.spacing_mm,
        window=scene.window,
        colors=scene.colors,
    )
    tile = Image.new("RGB", size_px, BACKGROUND)
    picture = _render(part, plane, at, px_per_mm)
    tile.paste(picture, ((size_px[0] - picture.width) // 2, (size_px[1] - picture.height) // 2))
    draw = ImageDraw.Draw(tile, "RGBA")
    _draw_text(draw, (5, 4), caption, anchor="la", size_px=12)
    _draw_scale(draw, px_per_mm, size_px[0], bottom=size_px[1], size_px=11)
    return tile


def _render(scene: Scene, plane: Plane, at: tuple[int, ...], px_per_mm: float) -> Image.Image:
    low, high = scene.window
    grey = (_cut(scene.image, plane, at).astype(np.float32) - low) / (high - low)
    size = _size_px(grey.shape, scene.spacing_mm, plane, px_per_mm)
    shades = (np.clip(grey, 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(shades).resize(size, Image.Resampling.BICUBIC)
    found = Image.fromarray(_cut(scene.numbers, plane, at).astype(np.uint8))
    return _overlay(picture, found.resize(size, Image.Resampling.NEAREST), scene.colors)


def _cut(array: Array, plane: Plane, at: tuple[int, ...]) -> Array:
    """Take one plane out of an LPS view, as (down, across)."""
    cut = array[tuple(at[plane.cut] if axis == plane.cut else slice(None) for axis in range(3))]
    # The two axes that are left keep their order; across always comes before down in PLANES.
    return np.asarray(cut.T[:: plane.down_sign])


def _size_px(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], plane: Plane, px_per_mm: float
) -> tuple[int, int]:
    width = shape[1] * spacing_mm[plane.across] * px_per_mm
    height = shape[0] * spacing_mm[plane.down] * px_per_mm
    return (max(1, round(width)), max(1, round(height)))


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


def _square(picture: Image.Image, side_px: int) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Put a picture into the middle of a square; give where it lies (left, top, width, height)."""
    square = Image.new("RGB", (side_px, side_px), BACKGROUND)
    left, top = (side_px - picture.width) // 2, (side_px - picture.height) // 2
    square.paste(picture, (left, top))
    return square, (left, top, picture.width, picture.height)


def _draw_cross(
    draw: ImageDraw.ImageDraw,
    scene: Scene,
    plane: Plane,
    at: tuple[int, ...],
    box: tuple[int, int, int, int],
) -> None:
    """Mark where the other two planes cut, at the picture's edges only, clear of the finding."""
    left, top, width, height = box
    shape = scene.image.shape
    across = (at[plane.across] + 0.5) / shape[plane.across]
    down = (at[plane.down] + 0.5) / shape[plane.down]
    x = left + width * across
    y = top + height * (down if plane.down_sign > 0 else 1 - down)
    # Clear of the letters, which stand at the edges of the square.
    first_x, first_y = max(left, _LETTER_PX), max(top, _LETTER_PX)
    last_x = left + width - 1 - max(0, _LETTER_PX - left)
    last_y = top + height - 1 - max(0, _LETTER_PX - top)
    color = (*_CROSS, 220)
    for start, end in (
        ((first_x, y), (first_x + _CROSS_PX, y)),
        ((last_x - _CROSS_PX, y), (last_x, y)),
        ((x, first_y), (x, first_y + _CROSS_PX)),
        ((x, last_y - _CROSS_PX), (x, last_y)),
    ):
        draw.line((start, end), fill=color, width=1)


def _draw_letters(draw: ImageDraw.ImageDraw, plane: Plane, side_px: int) -> None:
    middle, edge = side_px // 2, 4
    places = (
        ((edge, middle), "lm"),
        ((side_px - edge, middle), "rm"),
        ((middle, edge), "ma"),
        ((middle, side_px - edge), "md"),
    )
    for letter, (place, anchor) in zip(plane.letters, places, strict=True):
        _draw_text(draw, place, letter, anchor=anchor)


def _draw_scale(
    draw: ImageDraw.ImageDraw,
    px_per_mm: float,
    width_px: int,
    *,
    bottom: int | None = None,
    size_px: int = 12,
) -> None:
    """Draw the longest bar of a round length that takes at most a third of the width."""
    fitting = (length for length in _SCALES_MM if length * px_per_mm <= width_px / 3)
    length = next(fitting, _SCALES_MM[-1])
    end_x, y = width_px - 8, (bottom or width_px) - 8
    start_x = end_x - round(length * px_per_mm)
    for offset, color in ((1, BACKGROUND), (0, TEXT)):
        draw.line((start_x + offset, y + offset, end_x + offset, y + offset), fill=color, width=2)
    place = ((start_x + end_x) // 2, y - 4)
    _draw_text(draw, place, f"{length} mm", anchor="md", size_px=size_px, color=_DIM)


def _draw_text(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    *,
    anchor: str,
    size_px: int = 15,
    color: tuple[int, int, int] = TEXT,
) -> None:
    draw.text(
        place,
        text,
        fill=color,
        font=font_for(text, size_px),
        anchor=anchor,
        stroke_width=2,
        stroke_fill=BACKGROUND,
    )

"""The three planes of the viewer, as they are seen on the screen."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Picture = npt.NDArray[np.int16]  # (rows, columns, red green blue)
# Where the canvas has each plane: left, top, right, bottom, as fractions of it.
TILES = {"axial": (0, 0, 0.6, 1), "coronal": (0.6, 0, 1, 0.5), "sagittal": (0.6, 0.5, 1, 1)}
CROSSHAIR = (89, 191, 255)


def read_picture(png: bytes) -> Picture:
    """Read what the browser drew."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.int16)


def is_coloured(picture: Picture, colour: tuple[int, int, int], apart: int = 40) -> Any:
    return (np.abs(picture - np.array(colour)) < apart).all(axis=2)


def tile_of(picture: Picture, plane: str) -> Picture:
    """Cut one plane out, without the pixels that it shares with its neighbours."""
    rows, columns, _ = picture.shape
    left, top, right, bottom = TILES[plane]
    across = slice(round(left * columns) + 2, round(right * columns) - 2)
    return picture[round(top * rows) + 2 : round(bottom * rows) - 2, across]

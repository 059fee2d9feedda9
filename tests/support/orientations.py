"""Grids in every orientation, and landmarks on them whose places are known exactly."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from tests.support.dicom_phantoms import AXIAL, Grid, Phantom

SHAPE = (24, 20, 14)  # columns, rows, slices
SPACING_MM = (0.9, 1.3, 2.5)
RANDOM_GRIDS = 50
SEED = 20260301

# Label values of the landmarks, and the voxels at their centres: no two share a coordinate, and no
# flip, transpose or shift maps the four onto each other.
LANDMARKS = {1: (4, 3, 2), 2: (18, 7, 4), 3: (9, 15, 9), 4: (20, 12, 11)}
VALUES = {label: 500 * label for label in LANDMARKS}


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A grid, the order of its files, and a name for both."""

    name: str
    grid: Grid
    order: str

    @property
    def phantom(self) -> Phantom:
        """How the series is written."""
        return Phantom(grid=self.grid, order=self.order)


def axis_orientations() -> tuple[Placed, ...]:
    """Give the 48: each pair of row and column direction, with files up and down the normal."""
    axes = [
        (letter, np.eye(3)[n] * sign)
        for letters, n in (("LR", 0), ("PA", 1), ("SI", 2))
        for letter, sign in zip(letters, (1, -1), strict=True)
    ]
    found = []
    for (row_name, row), (column_name, column) in product(axes, axes):
        if row @ column == 0:
            grid = replace(
                AXIAL,
                row=tuple(row.tolist()),
                column=tuple(column.tolist()),
                shape=SHAPE,
                spacing_mm=SPACING_MM,
            )
            for order in ("ascending", "reversed"):
                name = f"{row_name}{column_name}-{order}"
                found.append(Placed(name=name, grid=grid, order=order))
    return tuple(found)


def oblique_orientations() -> tuple[Placed, ...]:
    """Give 50 random rotations, each with its own anisotropic spacing and origin."""
    chance = random.Random(SEED)
    found = []
    for number in range(RANDOM_GRIDS):
        axes = _rotation(chance)
        grid = Grid(
            row=tuple(axes[:, 0].tolist()),
            column=tuple(axes[:, 1].tolist()),
            shape=SHAPE,
            spacing_mm=tuple(round(chance.uniform(0.4, 4.0), 3) for _ in range(3)),  # type: ignore[arg-type]
            origin_mm=tuple(round(chance.uniform(-200, 200), 2) for _ in range(3)),  # type: ignore[arg-type]
        )
        found.append(Placed(name=f"oblique-{number:02d}", grid=grid, order="shuffled"))
    return tuple(found)


def _rotation(chance: random.Random) -> npt.NDArray[np.float64]:
    """Give a rotation, each as likely as any other (a random unit quaternion)."""
    w, x, y, z = np.array([chance.gauss(0, 1) for _ in range(4)])
    n = w * w + x * x + y * y + z * z
    s = 2 / n
    return np.array(
        [
            [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
            [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
            [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
        ]
    )


def truth(grid: Grid) -> npt.NDArray[np.uint8]:
    """Give the labels: (I, J, K), a cube of three voxels around each landmark."""
    labels = np.zeros(grid.shape, np.uint8)
    for label, (i, j, k) in LANDMARKS.items():
        labels[i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2] = label
    return labels


def picture(grid: Grid) -> npt.NDArray[np.uint16]:
    """Give stored values by which a threshold finds the landmarks."""
    return (truth(grid).astype(np.uint16) * 500 + 40).astype(np.uint16)


def places(grid: Grid) -> npt.NDArray[np.float64]:
    """Give the landmarks in LPS, mm: (4, 3)."""
    return np.array([grid.world(*index) for index in LANDMARKS.values()])


def centroids(
    labels: npt.NDArray[np.integer], affine_lps: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Give the centre of each landmark's voxels in LPS, mm: (4, 3)."""
    found = []
    for label in LANDMARKS:
        centre = np.argwhere(labels == label).mean(axis=0)
        found.append(affine_lps[:3, :3] @ centre + affine_lps[:3, 3])
    return np.array(found)

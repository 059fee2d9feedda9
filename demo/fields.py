"""Sampling grids and smooth random fields that any grid can be filled from.

The anatomy is defined in head coordinates (RAS, mm) and not on a grid, so that the four series
of one patient, each on its own oblique grid, show the same head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import ndimage

FloatArray = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]
Axes = tuple[int, int, int]
Point = tuple[float, float, float]

# Half the edge of the cube that the random fields fill, mm. A head's half length is about 105.
FIELD_REACH_MM = 130.0


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A regular grid of voxels in the head.

    Parameters
    ----------
    shape : (I, J, K)
    affine_ras : (4, 4) float64
        Voxel index -> head coordinates, RAS, mm.
    """

    shape: Axes
    affine_ras: Affine

    @classmethod
    def centred(
        cls,
        shape: Axes,
        spacing_mm: npt.ArrayLike,
        *,
        rotation: Affine | None = None,
        centre_mm: npt.ArrayLike = (0.0, 0.0, 0.0),
    ) -> Self:
        """Build the grid whose middle lies at `centre_mm`; `rotation` turns index axes to RAS."""
        turn = np.eye(3) if rotation is None else rotation
        affine = np.eye(4)
        affine[:3, :3] = turn @ np.diag(np.asarray(spacing_mm, float))
        affine[:3, 3] = np.asarray(centre_mm) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        return cls(shape=shape, affine_ras=affine)

    def coordinates(self) -> FloatArray:
        """Head coordinates of every voxel's centre, (3, I, J, K), mm."""
        i, j, k = (np.arange(n, dtype=np.float32) for n in self.shape)
        m = self.affine_ras.astype(np.float32)
        out = np.empty((3, *self.shape), np.float32)
        for axis in range(3):
            out[axis] = (
                (m[axis, 0] * i)[:, None, None]
                + (m[axis, 1] * j)[None, :, None]
                + ((m[axis, 2] * k) + m[axis, 3])[None, None, :]
            )
        return out

    def refined_slices(self, factor: int) -> Grid:
        """Build the grid with `factor` thin slices where this one has one, in the same slab."""
        affine = self.affine_ras.copy()
        affine[:3, 2] /= factor
        affine[:3, 3] -= affine[:3, 2] * (factor - 1) / 2
        i, j, k = self.shape
        return Grid(shape=(i, j, k * factor), affine_ras=affine)


@dataclass(frozen=True, kw_only=True, eq=False)
class SmoothField:
    """A smooth random function of head coordinates: mean 0, standard deviation 1."""

    lattice: FloatArray
    sigma_mm: float
    spacing_mm: float
    centre_mm: Point

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        sigma_mm: float,
        *,
        centre_mm: Point = (0.0, 0.0, 0.0),
        reach_mm: float = FIELD_REACH_MM,
    ) -> Self:
        """Draw a field whose correlation is that of a Gaussian of `sigma_mm`."""
        # 1.6 nodes a sigma: linear interpolation between nodes shows no facets at 1 mm.
        spacing_mm = sigma_mm / 1.6
        nodes = 2 * int(np.ceil(reach_mm / spacing_mm)) + 1
        noise = rng.standard_normal((nodes, nodes, nodes), dtype=np.float32)
        smooth = ndimage.gaussian_filter(noise, 1.6, mode="wrap", truncate=3.0)
        smooth /= smooth.std()
        return cls(lattice=smooth, sigma_mm=sigma_mm, spacing_mm=spacing_mm, centre_mm=centre_mm)

    def on(self, grid: Grid, box: tuple[slice, slice, slice] | None = None) -> FloatArray:
        """Sample the field on a grid, or on the part of it that `box` names."""
        start = np.zeros(3) if box is None else np.array([s.start for s in box])
        shape = grid.shape if box is None else tuple(s.stop - s.start for s in box)
        linear = grid.affine_ras[:3, :3]
        origin = grid.affine_ras[:3, 3] + linear @ start
        middle = (self.lattice.shape[0] - 1) / 2
        sampled: FloatArray = ndimage.affine_transform(
            self.lattice,
            linear / self.spacing_mm,
            offset=(origin - np.asarray(self.centre_mm)) / self.spacing_mm + middle,
            output_shape=shape,
            order=1,
            mode="nearest",
        )
        return sampled


def rotation_from_degrees(degrees: npt.ArrayLike) -> Affine:
    """Rotation about x, then y, then z."""
    a, b, c = np.deg2rad(np.asarray(degrees, float))
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turned: Affine = rz @ ry @ rx
    return turned

"""Where voxels are: the one home of geometry, and the only place that flips LPS and RAS.

Arrays here have the axes (column, row, slice), written (I, J, K); the affine maps a voxel's index
(centre of the voxel) to millimetres. DICOM's world is LPS, that of NIfTI and MONAI is RAS.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32] | npt.NDArray[np.float64]

# x and y change sign between DICOM's world and NIfTI's; the matrix is its own inverse.
LPS_TO_RAS: npt.NDArray[np.float64] = np.diag([-1.0, -1.0, 1.0, 1.0])
LPS_TO_RAS.setflags(write=False)

# Two grids are the same when no corner of one is further than this from the other's, in voxels of
# its smallest side. A hundredth of a voxel is far below what interpolation itself blurs, and far
# above what writing coordinates as float32 or with six digits loses (1e-4 mm).
SAME_GRID_TOLERANCE_VOXELS = 0.01

MM3_PER_ML = 1000.0


def flip_lps_ras(affine: FloatArray) -> npt.NDArray[np.float64]:
    """Turn an affine into LPS into one into RAS, or back.

    Parameters
    ----------
    affine : (4, 4) float
        Voxel index -> world, mm.

    Returns
    -------
    (4, 4) float64
    """
    return LPS_TO_RAS @ np.asarray(affine, dtype=np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Geometry:
    """A grid of voxels in the patient's space, without the voxels.

    Parameters
    ----------
    shape : (I, J, K)
        Columns, rows, slices.
    affine_lps : (4, 4) float64
        Voxel index (i, j, k) -> LPS, mm.
    frame_of_reference_uid : str
        Coordinates compare only within one.
    """

    shape: tuple[int, int, int]
    affine_lps: npt.NDArray[np.float64]
    frame_of_reference_uid: str

    def __post_init__(self) -> None:
        affine = np.array(self.affine_lps, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise ValueError("an affine is a 4 x 4 matrix of finite numbers")
        if abs(np.linalg.det(affine[:3, :3])) == 0.0:
            raise ValueError("an affine that flattens space is no grid")
        affine.setflags(write=False)
        object.__setattr__(self, "affine_lps", affine)

    @classmethod
    def from_axes(
        cls,
        *,
        shape: tuple[int, int, int],
        origin_mm: FloatArray,
        directions: FloatArray,
        spacing_mm: FloatArray,
        frame_of_reference_uid: str,
    ) -> Geometry:
        """Build a grid from its parts.

        Parameters
        ----------
        shape : (I, J, K)
        origin_mm : (3,) float
            LPS of the centre of voxel (0, 0, 0).
        directions : (3, 3) float
            Columns are the unit vectors along which column, row and slice index grow.
        spacing_mm : (3,) float
            Between columns, between rows, between slices.
        """
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(directions) * np.asarray(spacing_mm)
        affine[:3, 3] = origin_mm
        return cls(shape=shape, affine_lps=affine, frame_of_reference_uid=frame_of_reference_uid)

    @property
    def affine_ras(self) -> npt.NDArray[np.float64]:
        """Voxel index -> RAS, mm: (4, 4)."""
        return flip_lps_ras(self.affine_lps)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Between columns, between rows, between slices."""
        i, j, k = np.linalg.norm(self.affine_lps[:3, :3], axis=0)
        return (float(i), float(j), float(k))

    @property
    def origin_mm(self) -> npt.NDArray[np.float64]:
        """LPS of the centre of voxel (0, 0, 0): (3,)."""
        return self.affine_lps[:3, 3]

    @property
    def directions(self) -> npt.NDArray[np.float64]:
        """Unit vectors in LPS along column, row and slice index, as columns: (3, 3)."""
        return np.asarray(self.affine_lps[:3, :3] / np.asarray(self.spacing_mm))

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """Unit vector in LPS along which slices are counted: (3,)."""
        return normal_of(self.directions[:, 0], self.directions[:, 1])

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel, millilitres."""
        return float(abs(np.linalg.det(self.affine_lps[:3, :3]))) / MM3_PER_ML

    def slice_origins_mm(self) -> npt.NDArray[np.float64]:
        """LPS of the first voxel of each slice, in slice order: (K, 3)."""
        steps = np.arange(self.shape[2])[:, np.newaxis]
        return np.asarray(self.origin_mm + steps * self.affine_lps[:3, 2])

    def slice_positions_mm(self) -> npt.NDArray[np.float64]:
        """Distance of each slice along the normal, in slice order: (K,)."""
        return np.asarray(self.slice_origins_mm() @ self.normal)

    def to_lps(self, indices: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Give the world points of voxel indices.

        Parameters
        ----------
        indices : (..., 3) float
            Voxel indices (i, j, k).

        Returns
        -------
        (..., 3) float64
            LPS, mm.
        """
        points = np.asarray(indices, dtype=np.float64)
        return np.asarray(points @ self.affine_lps[:3, :3].T + self.origin_mm)

    def to_index(self, points_lps: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Give the (fractional) voxel indices of world points in LPS: (..., 3) -> (..., 3)."""
        offsets = np.asarray(points_lps, dtype=np.float64) - self.origin_mm
        return np.asarray(offsets @ np.linalg.inv(self.affine_lps[:3, :3]).T)

    def corners_mm(self) -> npt.NDArray[np.float64]:
        """LPS of the eight corner voxels' centres: (8, 3)."""
        i, j, k = (np.array([0, size - 1]) for size in self.shape)
        return self.to_lps(np.stack(np.meshgrid(i, j, k, indexing="ij"), axis=-1).reshape(-1, 3))

    def is_same_grid(self, other: Geometry) -> bool:
        """Whether voxel (i, j, k) of both lies at the same place of the same frame of reference."""
        if self.shape != other.shape or not self.shares_frame_of_reference(other):
            return False
        apart_mm = np.linalg.norm(self.corners_mm() - other.corners_mm(), axis=1).max()
        return bool(apart_mm <= SAME_GRID_TOLERANCE_VOXELS * min(self.spacing_mm))

    def shares_frame_of_reference(self, other: Geometry) -> bool:
        """Whether the coordinates of both compare."""
        return self.frame_of_reference_uid == other.frame_of_reference_uid

    def overlaps(self, other: Geometry) -> bool:
        """Whether any voxel centre of `other` can lie inside this grid.

        Boxes are compared along the axes of both grids (the face normals of the separating axis
        test), which can call two boxes overlapping that pass each other edge to edge, and never
        the reverse.
        """
        return _boxes_meet(self, other) and _boxes_meet(other, self)


def _boxes_meet(one: Geometry, other: Geometry) -> bool:
    corners = one.to_index(other.corners_mm())
    # Half a voxel each way: a grid ends at its voxels' faces, not at their centres.
    reaches = corners.max(axis=0) >= -0.5
    begins = corners.min(axis=0) <= np.array(one.shape) - 0.5
    return bool((reaches & begins).all())


def normal_of(row: FloatArray, column: FloatArray) -> npt.NDArray[np.float64]:
    """Give the unit normal of a slice from its two directions: (3,), (3,) -> (3,).

    `row` is the direction in which the column index grows (the first three values of Image
    Orientation (Patient)), `column` that in which the row index grows.

    References
    ----------
    DICOM PS3.3 C.7.6.2.1.1
    """
    normal = np.cross(np.asarray(row, dtype=np.float64), np.asarray(column, dtype=np.float64))
    return np.asarray(normal / np.linalg.norm(normal))


@dataclass(frozen=True, kw_only=True)
class SourceInstance:
    """The instance, and of a multi-frame instance the frame (from 1), that a slice came from."""

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Volume:
    """Voxels on a grid.

    Parameters
    ----------
    array : (I, J, K) float32
        Rescaled values; axes column, row, slice.
    geometry : Geometry
    sources : tuple of SourceInstance
        One for each slice, in slice order.
    """

    array: npt.NDArray[np.float32]
    geometry: Geometry
    sources: tuple[SourceInstance, ...]

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise ValueError(f"array {self.array.shape} on a grid of {self.geometry.shape}")
        if len(self.sources) != self.geometry.shape[2]:
            raise ValueError("every slice has one source")


def closest_anatomical_axes(geometry: Geometry) -> tuple[tuple[int, int], ...]:
    """Say which array axis runs closest to each axis of LPS.

    Returns
    -------
    tuple of (axis, sign)
        For left, posterior, superior in turn: the array axis (0 column, 1 row, 2 slice), each
        used once, and whether its index grows that way (1) or the other (-1).
    """
    directions = geometry.directions
    best = max(
        permutations(range(3)),
        key=lambda axes: sum(abs(directions[world, axis]) for world, axis in enumerate(axes)),
    )
    return tuple(
        (axis, 1 if directions[world, axis] >= 0 else -1) for world, axis in enumerate(best)
    )

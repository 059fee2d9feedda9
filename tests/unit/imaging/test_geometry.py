import numpy as np
import pytest

from tests.support.dicom_phantoms import AXIAL, GRIDS, OBLIQUE, Grid
from worker.core.geometry import (
    SAME_GRID_TOLERANCE_VOXELS,
    Geometry,
    Volume,
    closest_anatomical_axes,
    flip_lps_ras,
)


def geometry(grid: Grid, **changes: object) -> Geometry:
    values = {
        "shape": grid.shape,
        "origin_mm": np.array(grid.origin_mm),
        "directions": np.stack([grid.row, grid.column, grid.normal], axis=1),
        "spacing_mm": np.array(grid.spacing_mm),
        "frame_of_reference_uid": grid.frame_of_reference_uid,
    }
    return Geometry.from_axes(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", GRIDS)
def test_world_point_of_a_voxel_is_where_the_grid_put_it(name: str) -> None:
    grid = GRIDS[name]
    np.testing.assert_allclose(geometry(grid).to_lps([3, 7, 5]), grid.world(3, 7, 5), atol=1e-9)


@pytest.mark.parametrize("name", GRIDS)
def test_index_undoes_world(name: str) -> None:
    made = geometry(GRIDS[name])
    np.testing.assert_allclose(made.to_index(made.to_lps([3, 7, 5])), [3, 7, 5], atol=1e-9)


def test_ras_differs_from_lps_in_the_sign_of_x_and_y() -> None:
    made = geometry(OBLIQUE)
    lps = OBLIQUE.world(1, 2, 3)
    ras = made.affine_ras @ [1, 2, 3, 1]
    np.testing.assert_allclose(ras[:3], [-lps[0], -lps[1], lps[2]], atol=1e-9)


def test_flip_is_its_own_inverse() -> None:
    affine = geometry(OBLIQUE).affine_lps
    np.testing.assert_array_equal(flip_lps_ras(flip_lps_ras(affine)), affine)


def test_spacing_directions_and_normal_are_read_back_from_the_affine() -> None:
    made = geometry(OBLIQUE)
    np.testing.assert_allclose(made.spacing_mm, OBLIQUE.spacing_mm)
    np.testing.assert_allclose(made.directions[:, 0], OBLIQUE.row)
    np.testing.assert_allclose(made.normal, OBLIQUE.normal)


def test_slice_positions_ascend_by_the_spacing() -> None:
    np.testing.assert_allclose(np.diff(geometry(OBLIQUE).slice_positions_mm()), 2.5)


def test_voxel_volume_is_in_millilitres() -> None:
    assert geometry(OBLIQUE).voxel_volume_ml == pytest.approx(0.9 * 1.3 * 2.5 / 1000)


def test_affine_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="read-only"):
        geometry(AXIAL).affine_lps[0, 0] = 5


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_affine_must_be_finite(value: float) -> None:
    affine = np.eye(4)
    affine[0, 3] = value
    with pytest.raises(ValueError, match="finite"):
        Geometry(shape=(2, 2, 2), affine_lps=affine, frame_of_reference_uid="1")


def test_flat_affine_is_no_grid() -> None:
    with pytest.raises(ValueError, match="flattens"):
        Geometry(shape=(2, 2, 2), affine_lps=np.diag([1, 1, 0, 1.0]), frame_of_reference_uid="1")


def test_grids_within_float_noise_are_the_same() -> None:
    origin = np.array(AXIAL.origin_mm) + 3e-5
    assert geometry(AXIAL).is_same_grid(geometry(AXIAL, origin_mm=origin))


@pytest.mark.parametrize(
    "changes",
    [
        {"origin_mm": np.add(AXIAL.origin_mm, [0, 2 * SAME_GRID_TOLERANCE_VOXELS, 0])},
        {"shape": (22, 18, 15)},
        {"frame_of_reference_uid": "1.2.3"},
        {"spacing_mm": np.array([0.9, 1.3, 2.51])},
        {"directions": np.diag([1.0, -1.0, 1.0])},
    ],
)
def test_other_grids_are_not_the_same(changes: dict[str, object]) -> None:
    assert not geometry(AXIAL).is_same_grid(geometry(AXIAL, **changes))


def test_boxes_overlap_when_they_share_space() -> None:
    assert geometry(AXIAL).overlaps(geometry(OBLIQUE))


@pytest.mark.parametrize("offset", [(500, 0, 0), (0, -500, 0), (0, 0, 400)])
def test_boxes_far_apart_do_not_overlap(offset: tuple[int, int, int]) -> None:
    away = geometry(OBLIQUE, origin_mm=np.array(OBLIQUE.origin_mm) + offset)
    assert not geometry(AXIAL).overlaps(away)


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("axial", ((0, 1), (1, 1), (2, 1))),
        ("coronal", ((0, 1), (2, 1), (1, -1))),
        ("sagittal", ((2, -1), (0, 1), (1, -1))),
        ("flipped", ((0, -1), (1, 1), (2, -1))),
        ("oblique", ((0, 1), (1, 1), (2, 1))),
        ("oblique_sagittal", ((2, -1), (0, 1), (1, -1))),
    ],
)
def test_closest_anatomical_axes(name: str, axes: tuple[tuple[int, int], ...]) -> None:
    assert closest_anatomical_axes(geometry(GRIDS[name])) == axes


def test_volume_must_fit_its_grid() -> None:
    with pytest.raises(ValueError, match="grid"):
        Volume(array=np.zeros((2, 2, 2), np.float32), geometry=geometry(AXIAL), sources=())

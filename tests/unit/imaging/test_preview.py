import numpy as np
import numpy.typing as npt
import pytest

from tests.support.imaging_models import CORE, LESION, TISSUE
from worker.adapters.preview import _Finding, _focus, _headline, _largest, _tile_places
from worker.adapters.preview_planes import PLANES, LpsView, Scene, draw_plane, window_of
from worker.core.geometry import Geometry
from worker.core.measurement import measure
from worker.core.segments import Labels

SAGITTAL = Geometry(
    shape=(10, 12, 6),
    affine_lps=np.array(
        [[0.0, 0, 4, 0], [1.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]], dtype=float
    ),
    frame_of_reference_uid="1.2.3",
)


def test_the_largest_lesion_is_shown_not_the_largest_label() -> None:
    numbers = np.zeros((20, 20, 10), np.uint8)
    numbers[:, :, 0:3] = 1  # anatomy: much more of it
    numbers[2:4, 2:4, 5:7] = 2
    numbers[10:16, 10:16, 5:9] = 2
    shown = _largest(numbers, [TISSUE, LESION])
    assert shown.mask.sum() == 6 * 6 * 4
    assert [12, 12, 6] in shown.indices().tolist()


def _shown(mask: npt.NDArray[np.bool_]) -> _Finding:
    return _largest(mask.astype(np.uint8), [LESION])


def test_the_planes_cross_inside_the_lesion_even_where_its_centroid_is_not() -> None:
    ring = np.zeros((21, 21, 5), dtype=bool)
    ring[3:18, 3:18, 2] = True
    ring[5:16, 5:16, 2] = False
    assert not ring[10, 10, 2]
    at = _focus(_shown(ring), (1.0, 1.0, 1.0))
    assert ring[at]


def test_without_a_finding_the_middle_is_shown() -> None:
    assert _focus(_shown(np.zeros((20, 10, 6), dtype=bool)), (1, 1, 1)) == (10, 5, 3)


@pytest.mark.parametrize(("first", "last"), [(0, 0), (29, 29), (3, 27), (10, 13)])
def test_slices_of_the_montage_go_through_the_finding(first: int, last: int) -> None:
    shown = np.zeros((4, 4, 30), dtype=bool)
    shown[1, 1, first : last + 1] = True
    places = _tile_places(_shown(shown), PLANES[0])
    assert places == sorted(set(places))
    assert len(places) == 6
    assert {0 <= place < 30 for place in places} == {True}
    assert any(first <= place <= last for place in places)
    if last - first > 6:
        assert all(first <= place <= last for place in places)


def test_slice_numbers_count_along_the_normal() -> None:
    view = LpsView(SAGITTAL)
    assert view.acquired_plane.name == "sagittal"
    array = np.arange(6, dtype=np.float32) * np.ones(SAGITTAL.shape, np.float32)
    turned = view.view(array)
    for place in range(6):
        assert float(turned[place, 0, 0]) + 1 == view.slice_number(place)


def test_thick_slices_keep_their_proportions() -> None:
    """A cube of 40 mm is a square in every plane, whatever the voxels."""
    image = np.zeros((80, 80, 20), np.float32)
    image[20:60, 20:60, 5:15] = 100  # 1 x 1 x 4 mm
    scene = Scene(
        image=image,
        numbers=np.zeros(image.shape, np.uint8),
        spacing_mm=(1.0, 1.0, 4.0),
        window=window_of(image),
        colors=np.zeros((1, 3), np.float32),
    )
    for plane in PLANES:
        panel = draw_plane(scene, plane, (40, 40, 10), side_px=320, px_per_mm=4.0)
        grey = np.asarray(panel)[..., 1].astype(int)
        middle = slice(100, 220)
        across = int((grey[middle].mean(axis=0) > 128).sum())
        down = int((grey[:, middle].mean(axis=1) > 128).sum())
        assert across == pytest.approx(160, abs=8)
        assert down == pytest.approx(160, abs=8)


def test_the_headline_says_whether_a_lesion_was_found() -> None:
    def headline(array: np.ndarray, *specs: object) -> str:
        labels = Labels(array=array, values=(1, 2, 5))
        return _headline(specs, measure(labels, specs, SAGITTAL))  # type: ignore[arg-type]

    empty = np.zeros(SAGITTAL.shape, np.uint8)
    tissue = empty.copy()
    tissue[2:5, 2:5, 2:5] = 1
    lesion = tissue.copy()
    lesion[3, 3, 3] = 2
    assert headline(empty, TISSUE) == "Nothing found"
    assert headline(empty, LESION, CORE) == "No lesion found"
    assert headline(tissue, TISSUE, LESION) == "No lesion found"
    assert headline(tissue, TISSUE) == "Segments"
    assert headline(lesion, TISSUE, LESION) == "Segments"

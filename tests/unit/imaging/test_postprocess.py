import numpy as np
import pytest

from worker.core.geometry import Geometry
from worker.core.postprocess import Postprocess, postprocess
from worker.core.segments import Labels

GEOMETRY = Geometry(
    shape=(12, 10, 8),
    affine_lps=np.diag([0.5, 1.0, 4.0, 1.0]),  # one voxel is 2 mm3, 0.002 mL
    frame_of_reference_uid="1.2.3",
)


def labels_of(**blocks: tuple[int, tuple[slice, slice, slice]]) -> Labels:
    array = np.zeros(GEOMETRY.shape, np.uint8)
    for value, where in blocks.values():
        array[where] = value
    return Labels(array=array, values=(1, 2))


def block(start: tuple[int, int, int], size: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    i, j, k = (slice(at, at + length) for at, length in zip(start, size, strict=True))
    return i, j, k


BIG = block((1, 1, 1), (4, 4, 4))  # 64 voxels
SMALL = block((8, 7, 5), (2, 2, 2))  # 8 voxels, 0.016 mL
CORNER = block((5, 5, 5), (1, 1, 1))  # touches BIG at one corner only


def volumes(labels: Labels) -> tuple[int, int]:
    return tuple(int(labels.mask(value).sum()) for value in (1, 2))  # type: ignore[return-value]


def test_nothing_is_done_unless_it_is_asked_for() -> None:
    labels = labels_of(big=(1, BIG), small=(1, SMALL))
    same, steps = postprocess(labels, Postprocess(), GEOMETRY)
    assert same is labels
    assert steps == ()


def test_the_largest_component_of_each_label_stays() -> None:
    labels = labels_of(big=(1, BIG), small=(1, SMALL), other=(2, block((8, 1, 1), (2, 2, 2))))
    kept, (step,) = postprocess(labels, Postprocess(keep_largest="each"), GEOMETRY)
    assert volumes(kept) == (64, 8)
    assert (step.removed, step.added, step.components_removed) == ({1: 8}, {}, 1)
    assert volumes(labels) == (72, 8)  # what came in isn't changed


def test_the_largest_component_of_all_labels_together_stays() -> None:
    rim = block((5, 1, 1), (1, 4, 4))  # beside the big one
    labels = labels_of(big=(1, BIG), rim=(2, rim), small=(2, SMALL))
    kept, (step,) = postprocess(labels, Postprocess(keep_largest="all"), GEOMETRY)
    assert volumes(kept) == (64, 16)
    assert step.removed == {2: 8}


@pytest.mark.parametrize(("connectivity", "left"), [(26, 65), (6, 64)])
def test_voxels_that_touch_at_a_corner_belong_together_by_26_only(
    connectivity: int, left: int
) -> None:
    labels = labels_of(big=(1, BIG), corner=(1, CORNER))
    settings = Postprocess(keep_largest="each", connectivity=connectivity)
    assert volumes(postprocess(labels, settings, GEOMETRY)[0]) == (left, 0)


@pytest.mark.parametrize(("least", "left"), [(0.016, 72), (0.0161, 64), (0.128, 64), (0.2, 0)])
def test_the_smallest_volume_is_measured_in_millilitres(least: float, left: int) -> None:
    labels = labels_of(big=(1, BIG), small=(1, SMALL))
    kept, _ = postprocess(labels, Postprocess(min_volume_ml=least), GEOMETRY)
    assert volumes(kept) == (left, 0)


def test_enclosed_background_is_filled_and_another_label_stays() -> None:
    hole, core = block((2, 2, 2), (1, 1, 1)), block((3, 3, 3), (1, 1, 1))
    labels = labels_of(big=(1, BIG), hole=(0, hole), core=(2, core))
    filled, (step,) = postprocess(labels, Postprocess(fill_holes=True), GEOMETRY)
    assert volumes(filled) == (63, 1)
    assert step.added == {1: 1}


def test_a_dent_is_no_hole() -> None:
    labels = labels_of(big=(1, BIG), dent=(0, block((1, 2, 2), (2, 1, 1))))
    filled, (step,) = postprocess(labels, Postprocess(fill_holes=True), GEOMETRY)
    assert volumes(filled) == (62, 0)
    assert step.added == {}


def test_overlapping_masks_are_done_one_by_one() -> None:
    masks = np.zeros((2, *GEOMETRY.shape), np.uint8)
    masks[0][BIG] = 1
    masks[0][SMALL] = 1
    masks[1][block((2, 2, 2), (2, 2, 2))] = 1
    masks[1][SMALL] = 1
    masks[0][block((2, 3, 3), (1, 1, 1))] = 0
    labels = Labels(array=masks, values=(1, 2), is_overlapping=True)
    settings = Postprocess(fill_holes=True, keep_largest="each")
    kept, steps = postprocess(labels, settings, GEOMETRY)
    assert volumes(kept) == (64, 8)
    assert [step.name for step in steps] == ["fill_holes", "keep_largest"]
    together, _ = postprocess(labels, Postprocess(keep_largest="all"), GEOMETRY)
    assert volumes(together) == (63, 8)


def test_an_empty_mask_stays_empty() -> None:
    empty = Labels(array=np.zeros(GEOMETRY.shape, np.uint8), values=(1, 2))
    settings = Postprocess(fill_holes=True, keep_largest="all", min_volume_ml=1)
    kept, steps = postprocess(empty, settings, GEOMETRY)
    assert not kept.array.any()
    assert len(steps) == 3

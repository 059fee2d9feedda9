"""Labels: the box that they fill, and how they lie in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from worker.core.segments import Labels, bounding_box

MAPS = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
    elements=st.sampled_from([0, 0, 0, 0, 0, 2, 5]),
)


@given(MAPS, st.permutations(range(3)), st.booleans())
def test_nothing_lies_outside_the_box_and_each_of_its_sides_touches_something(
    array: npt.NDArray[np.uint8], axes: list[int], is_mirrored: bool
) -> None:
    turned = array.transpose(axes)[:: -1 if is_mirrored else 1]  # as views of a volume lie
    box = bounding_box(turned)
    inside = turned[box]
    assert np.count_nonzero(inside) == np.count_nonzero(turned)
    for axis in range(3):
        ends = inside.take([0, -1], axis=axis) if inside.size else inside
        hits = ends.any(axis=tuple(other for other in range(3) if other != axis))
        assert hits.all() or not array.any()


def test_the_box_of_nothing_is_empty() -> None:
    assert not np.ones((3, 4, 5))[bounding_box(np.zeros((3, 4, 5), bool))].size


@given(MAPS, st.booleans())
def test_slice_order_moves_memory_and_no_voxel(
    array: npt.NDArray[np.uint8], is_overlapping: bool
) -> None:
    if is_overlapping:
        given_labels = Labels(
            array=np.stack([array == 2, array == 5]).astype(np.uint8),
            values=(2, 5),
            is_overlapping=True,
        )
    else:
        given_labels = Labels(array=array, values=(2, 5))
    turned = given_labels.in_slice_order()
    np.testing.assert_array_equal(turned.array, given_labels.array)
    assert turned.array[..., 0].T.flags.c_contiguous or is_overlapping
    assert replace(turned, array=turned.array).in_slice_order().array is turned.array


def test_labels_in_slice_order_are_not_copied() -> None:
    labels = Labels(array=np.zeros((3, 4, 5), np.uint8, order="F"), values=(1,))
    assert labels.in_slice_order() is labels


@pytest.mark.parametrize("is_overlapping", [True, False])
def test_some_slices_are_those_of_the_whole(is_overlapping: bool) -> None:
    array = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    whole = (
        Labels(array=array, values=(1, 2), is_overlapping=True)
        if is_overlapping
        else Labels(array=array[0], values=(1,))
    )
    part = whole.between(slice(2, 4))
    assert part.shape == (3, 4, 2)
    np.testing.assert_array_equal(part.array, whole.array[..., 2:4])


@given(MAPS, st.lists(st.sampled_from([1, 2, 5, 7]), unique=True), st.booleans())
def test_counts_are_those_of_the_array_whatever_values_are_expected(
    array: npt.NDArray[np.uint8], expected: list[int], has_many: bool
) -> None:
    values = (*expected, *range(100, 120)) if has_many else tuple(expected)
    found = Labels(array=array, values=values).counts()
    assert found == {v: int((array == v).sum()) for v in (2, 5) if (array == v).any()}


def test_overlapping_masks_are_counted_each() -> None:
    array = np.zeros((3, 2, 2, 2), np.uint8)
    array[0, 0], array[1, 0, 0] = 1, 1
    labels = Labels(array=array, values=(4, 1, 9), is_overlapping=True)
    assert labels.counts() == {4: 4, 1: 2}
    assert labels.present_values() == {1, 4}

import numpy as np
import pytest

from tests.support.dicom_phantoms import OBLIQUE, lesion
from tests.support.imaging_models import CORE, LESION, TISSUE
from worker.core.geometry import Geometry
from worker.core.measurement import measure, slice_extent, union_of
from worker.core.segments import Labels, ordered_by_label

GEOMETRY = Geometry.from_axes(
    shape=OBLIQUE.shape,
    origin_mm=np.array(OBLIQUE.origin_mm),
    directions=np.stack([OBLIQUE.row, OBLIQUE.column, OBLIQUE.normal], axis=1),
    spacing_mm=np.array(OBLIQUE.spacing_mm),
    frame_of_reference_uid="1.2",
)
TRUTH = lesion(OBLIQUE)
LABEL_MAP = Labels(array=np.array([0, 2, 5], np.uint8)[TRUTH], values=(2, 5))
OVERLAPPING = Labels(
    array=np.stack([TRUTH >= 1, TRUTH >= 2]).astype(np.uint8), values=(2, 5), is_overlapping=True
)


def test_volume_is_voxels_times_voxel_volume() -> None:
    found = measure(LABEL_MAP, (LESION, CORE), GEOMETRY)
    assert [item.voxels for item in found] == [int((TRUTH == 1).sum()), int((TRUTH == 2).sum())]
    for item in found:
        assert item.volume_ml == pytest.approx(item.voxels * 0.9 * 1.3 * 2.5 / 1000, abs=1e-6)


def test_overlapping_segments_are_each_counted_whole() -> None:
    found = measure(OVERLAPPING, (LESION, CORE), GEOMETRY)
    assert found[0].voxels == int((TRUTH >= 1).sum())


def test_segment_that_was_not_found_has_no_voxels() -> None:
    assert measure(LABEL_MAP, (TISSUE, LESION), GEOMETRY)[0].voxels == 0


@pytest.mark.parametrize("labels", [LABEL_MAP, OVERLAPPING])
def test_union_counts_a_voxel_once(labels: Labels) -> None:
    np.testing.assert_array_equal(union_of(labels, (LESION, CORE)), TRUTH > 0)


def test_slice_extent_counts_from_zero_along_the_normal() -> None:
    assert slice_extent(TRUTH > 0) == (3, 8)


def test_slice_extent_of_nothing_is_none() -> None:
    assert slice_extent(np.zeros((2, 2, 2), bool)) == (None, None)


def test_segments_are_numbered_by_ascending_label_value() -> None:
    assert ordered_by_label([CORE, TISSUE, LESION]) == (TISSUE, LESION, CORE)


@pytest.mark.parametrize("labels", [LABEL_MAP, OVERLAPPING])
def test_present_values_leave_out_the_background(labels: Labels) -> None:
    assert labels.present_values() == {2, 5}


def test_mask_of_a_value_that_cannot_occur_is_empty() -> None:
    assert not OVERLAPPING.mask(9).any()


def test_labels_refuse_other_axes() -> None:
    with pytest.raises(ValueError, match="axes"):
        Labels(array=np.zeros((2, 2), np.uint8), values=(1,))
    with pytest.raises(ValueError, match="label values"):
        Labels(array=np.zeros((2, 2, 2, 2), np.uint8), values=(1,), is_overlapping=True)


def test_recoding_names_label_values_beyond_the_array_s_type() -> None:
    recoded = LABEL_MAP.recoded({2: 1, 5: 2, 1024: 3})
    np.testing.assert_array_equal(recoded, TRUTH)


def test_overlapping_masks_cannot_be_recoded() -> None:
    with pytest.raises(ValueError, match="overlapping"):
        OVERLAPPING.recoded({2: 1})

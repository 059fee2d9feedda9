import numpy as np
import pytest
from scipy import ndimage

from demo.anatomy import SEQUENCES, draw_anatomy
from demo.fields import Grid, SmoothField, rotation_from_degrees
from demo.phantom import EDEMA, ENHANCING, NECROSIS, ScanQuality, lay_out, region_mask, render
from demo.seeds import EVALUATION_SEEDS, SAMPLE_SEED, TRAINING_SEEDS, VALIDATION_SEEDS

GRID = Grid.centred((64, 72, 48), (3.2, 3.2, 3.2), centre_mm=(0, 4, 4))
CLEAN = ScanQuality(noise=0.0, bias=0.0, gain=1.0)


def paint(scene, sequence):
    return render(scene, sequence, CLEAN, (1,))


@pytest.fixture(scope="module")
def scene():
    return lay_out(draw_anatomy(3, lesions=1), GRID)


def test_same_seed_draws_the_same_head_and_another_seed_another():
    one, again, other = (lay_out(draw_anatomy(seed), GRID) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.labels, again.labels)
    np.testing.assert_array_equal(paint(one, "T2"), paint(again, "T2"))
    assert not np.array_equal(paint(one, "T2"), paint(other, "T2"))


def test_noise_comes_from_the_scan_seed_only(scene):
    noisy = ScanQuality(noise=0.03, bias=0.1, gain=1.0)
    first, again, other = (render(scene, "T1", noisy, (n,)) for n in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.min() >= 0


def test_labels_are_those_of_brats_and_healthy_heads_have_none(scene):
    assert set(np.unique(scene.labels)) == {0, NECROSIS, EDEMA, ENHANCING}
    assert not lay_out(draw_anatomy(3, lesions=0), GRID).labels.any()


def test_drawn_counts_include_healthy_heads_and_several_lesions():
    counts = [len(draw_anatomy(seed).lesions) for seed in range(25)]
    assert 0 in counts
    assert max(counts) >= 2


@pytest.mark.parametrize("seed", [3, 11, 12, 13])
def test_core_lies_inside_the_rim_and_the_tumour_inside_the_head(seed):
    scene = lay_out(draw_anatomy(seed, lesions=1), Grid.centred((96, 108, 72), (2, 2, 2)))
    core, tumour = scene.labels == NECROSIS, region_mask(scene.labels, "TC")
    around = ndimage.binary_dilation(core) & ~core
    touching = np.isin(scene.labels[around], (ENHANCING,)).mean()
    assert core.sum() > 30
    assert touching > 0.9  # a tumour under the vault may lose some of its rim to the bone
    assert ndimage.label(ndimage.binary_dilation(tumour))[1] == 1
    assert scene.anatomy.hull.depth_mm(scene.grid.coordinates())[scene.labels > 0].min() > -8


def test_tissues_have_each_sequence_s_textbook_order():
    for seed in range(5):
        signal = draw_anatomy(seed).signal
        t1c, t1, t2, flair = range(4)
        assert signal["white"][t1] > signal["grey"][t1] > signal["csf"][t1]
        assert signal["csf"][t2] > signal["grey"][t2] > signal["white"][t2]
        assert signal["csf"][flair] < signal["white"][flair] < signal["edema"][flair]
        assert signal["rim"][t1c] > signal["white"][t1c] > signal["rim"][t1]


def test_images_show_the_lesion_as_each_sequence_does(scene):
    image = {name: paint(scene, name) for name in SEQUENCES}
    mean = {
        (name, value): image[name][scene.labels == value].mean()
        for name in SEQUENCES
        for value in (NECROSIS, EDEMA, ENHANCING)
    }
    assert mean["T1c", ENHANCING] > 1.5 * mean["T1", ENHANCING]
    assert mean["T1c", ENHANCING] > 1.5 * mean["T1c", NECROSIS]
    assert mean["FLAIR", EDEMA] > mean["FLAIR", NECROSIS]


def test_left_and_right_differ():
    anatomy = draw_anatomy(8, lesions=0)
    image = paint(lay_out(anatomy, GRID), "T2")
    mirrored = image[::-1]
    head = (image > 0.1) & (mirrored > 0.1)
    assert np.abs(image - mirrored)[head].mean() > 0.05
    left, right = anatomy.ventricles[:2]
    assert left.centre_mm[0] < 0 < right.centre_mm[0]
    assert np.prod(right.radii_mm) > 1.5 * np.prod(left.radii_mm)
    assert anatomy.capsule.centre_mm[0] < -60  # patient's left is -x in RAS


def test_capsule_shines_on_the_left_of_every_head():
    anatomy = draw_anatomy(21, lesions=0)
    image = paint(lay_out(anatomy, GRID), "T1c")
    to_index = np.linalg.inv(GRID.affine_ras)
    x, y, z = anatomy.capsule.centre_mm
    i, j, k = np.rint(to_index @ [x - 2, y, z, 1])[:3].astype(int)
    assert image[i, j, k] > 0.9
    i = round((to_index @ [-x + 2, y, z, 1])[0])
    assert image[i, j, k] < 0.5


def test_one_head_looks_the_same_from_two_grids():
    anatomy = draw_anatomy(9, lesions=1)
    tilted = Grid.centred(
        (80, 80, 60),
        (2.6, 2.4, 3.0),
        rotation=rotation_from_degrees((9, -6, 20)),
        centre_mm=(1, 2, 3),
    )
    centroids = []
    for grid in (GRID, tilted):
        index = np.argwhere(region_mask(lay_out(anatomy, grid).labels, "TC")).mean(0)
        centroids.append((grid.affine_ras @ [*index, 1])[:3])
    np.testing.assert_allclose(*centroids, atol=0.7)


def test_field_is_a_function_of_place_and_not_of_the_grid():
    field = SmoothField.random(np.random.default_rng(1), 8.0)
    box = (slice(10, 20), slice(5, 9), slice(7, 30))
    np.testing.assert_allclose(field.on(GRID, box), field.on(GRID)[box], atol=1e-5)
    assert field.lattice.std() == pytest.approx(1, abs=1e-3)


def test_centred_grid_puts_its_middle_where_asked():
    grid = Grid.centred(
        (5, 7, 9), (1, 2, 3), rotation=rotation_from_degrees((10, 20, 30)), centre_mm=(4, 5, 6)
    )
    np.testing.assert_allclose(grid.coordinates()[:, 2, 3, 4], (4, 5, 6), atol=1e-4)


def test_seeds_of_training_and_judging_never_meet():
    used = [set(TRAINING_SEEDS), set(VALIDATION_SEEDS), set(EVALUATION_SEEDS), {SAMPLE_SEED}]
    assert sum(map(len, used)) == len(set.union(*used))

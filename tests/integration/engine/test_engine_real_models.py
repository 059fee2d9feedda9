"""Real configurations and real weights, where they are."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.integration.engine.bundles import describe, dice
from worker.adapters.dicom_read import allocate, decode_series, open_series
from worker.adapters.engine_monai import MonaiEngine
from worker.adapters.engine_monai.bundle import load_bundle
from worker.adapters.engine_monai.label_probe import labels_it_gives
from worker.core.segments import Labels

pytestmark = pytest.mark.real_data


def segment_t1(bundle: Path, values: tuple[int, ...], t1: Path) -> tuple[Labels, np.ndarray]:
    opened = open_series(tuple(sorted(t1.iterdir())))
    image = decode_series(opened, out=allocate(opened.geometry.shape)).array
    affine = opened.geometry.affine_ras
    seen: list[float] = []
    entry = describe(bundle, values=values, name=bundle.name)
    labels = MonaiEngine("cpu").segment(entry, image[None], affine, seen.append)
    # A network that takes the whole volume at once must be seen to move, or it looks hung.
    assert len(seen) > 10
    assert seen == sorted(seen)
    return labels, affine


def on_expected_grid(labels: Labels, affine: np.ndarray, expected: nib.Nifti1Image) -> np.ndarray:
    """Bring our label map to the expected mask's voxel order: flips and permutations only."""
    image = nib.Nifti1Image(labels.array, affine)
    ours = nib.orientations.io_orientation(image.affine)
    theirs = nib.orientations.io_orientation(expected.affine)
    moved = image.as_reoriented(nib.orientations.ornt_transform(ours, theirs))
    np.testing.assert_allclose(moved.affine, expected.affine, atol=1e-3)
    return np.asarray(moved.dataobj)


def check(bundle: Path, values: tuple[int, ...], t1: Path, expected: Path, least: float) -> None:
    labels, affine = segment_t1(bundle, values, t1)
    image = nib.load(expected)
    ours, theirs = on_expected_grid(labels, affine, image), np.asarray(image.dataobj)
    for value in values:
        overlap = dice(ours == value, theirs == value)
        print(f"{bundle.name} label {value}: Dice {overlap:.6f}, {(ours == value).sum()} voxels")
        assert overlap >= least
        assert (ours == value).sum() == pytest.approx((theirs == value).sum(), rel=0.01)


@pytest.mark.slow
def test_grey_and_white_matter_are_those_of_plain_pytorch(
    gwm_light_bundle: Path, t1_series_dir: Path, real_data: Path
) -> None:
    expected = real_data / "gwm_light_expected_mask.nii.gz"
    check(gwm_light_bundle, (1, 2), t1_series_dir, expected, least=0.98)


@pytest.mark.slow
@pytest.mark.slowest
@pytest.mark.timeout(1800)
def test_brain_is_that_of_plain_pytorch(
    mindgrab_bundle: Path, t1_series_dir: Path, real_data: Path
) -> None:
    expected = real_data / "mindgrab_expected_mask.nii.gz"
    check(mindgrab_bundle, (1,), t1_series_dir, expected, least=0.99)


def test_brats_configuration_builds_the_published_network(brats_bundle_config: Path) -> None:
    entry = describe(brats_bundle_config, allow_random_weights=True)
    assert entry.channels == ("T1c", "T1", "T2", "FLAIR")
    parts = load_bundle(entry, torch.device("cpu"))
    assert sum(p.numel() for p in parts.network.parameters()) == 4_702_227
    assert tuple(parts.inferer.roi_size) == (240, 240, 160)
    assert parts.is_mixed_precision
    names = [type(step).__name__ for step in parts.postprocessing.transforms]
    assert names == ["Activationsd", "Invertd", "AsDiscreted", "Lambdad"]


def test_brats_label_values_are_found_by_asking_its_postprocessing(
    brats_bundle_config: Path,
) -> None:
    entry = describe(brats_bundle_config, values=(), allow_random_weights=True)
    assert labels_it_gives(entry) == {1: "Tumor core", 2: "Whole tumor", 4: "Enhancing tumor"}


@pytest.mark.slow
def test_brats_configuration_runs_unedited_with_random_weights(brats_bundle_config: Path) -> None:
    entry = describe(brats_bundle_config, allow_random_weights=True)
    generator = np.random.default_rng(0)
    image = generator.random((4, 48, 40, 32), dtype=np.float32)
    labels = MonaiEngine("cpu").segment(entry, image, np.diag([-1.0, -1, 1, 1]), lambda _: None)
    assert labels.shape == (48, 40, 32)
    assert labels.values == (1, 2, 4)
    assert labels.present_values() <= {1, 2, 4}
    assert any("random" in warning for warning in entry.warnings)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_half_precision_on_a_gpu_gives_the_cpus_mask(
    gwm_light_bundle: Path, t1_series_dir: Path, real_data: Path
) -> None:
    expected = nib.load(real_data / "gwm_light_expected_mask.nii.gz")
    opened = open_series(tuple(sorted(t1_series_dir.iterdir())))
    image = decode_series(opened, out=allocate(opened.geometry.shape)).array
    entry = describe(gwm_light_bundle, values=(1, 2), amp=True)
    affine = opened.geometry.affine_ras
    labels = MonaiEngine("cuda").segment(entry, image[None], affine, lambda _: None)
    ours, theirs = on_expected_grid(labels, affine, expected), np.asarray(expected.dataobj)
    for value in (1, 2):
        assert dice(ours == value, theirs == value) >= 0.98

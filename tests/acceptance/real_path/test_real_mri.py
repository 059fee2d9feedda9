"""Real MRI through the whole path: import, POST, worker, real network, and the mask back again."""

from __future__ import annotations

from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pytest

from benchmarks.whole_path import CaseFigures, compare, count_dciodvfy_errors, run_case

pytestmark = [pytest.mark.slow, pytest.mark.real_data, pytest.mark.timeout(900)]


def assert_delivered(figures: CaseFigures) -> None:
    assert figures.status["status"] == "completed", figures.status["failure"]
    assert set(figures.files) == {
        "mask.dcm",
        "mask.nii.gz",
        "preview.png",
        "report.html",
        "report.json",
    }


def assert_valid(mask: Path) -> None:
    errors = count_dciodvfy_errors(mask)
    if errors is None:
        pytest.skip("dciodvfy is not installed (Debian's dicom3tools)")
    assert errors == 0


def assert_same_voxels(figures: CaseFigures) -> None:
    """Compare the SEG that the PACS got with the NIfTI, in the patient's coordinates."""
    volume = highdicom.seg.segread(figures.files["mask.dcm"]).get_volume(combine_segments=True)
    nifti = nibabel.load(figures.files["mask.nii.gz"])
    values = np.asarray(nifti.dataobj)
    inside = np.argwhere(volume.array > 0)
    assert len(inside) == np.count_nonzero(values)
    sample = inside[:: max(1, len(inside) // 5000)]
    ras = volume.map_indices_to_reference(sample) * [-1, -1, 1]
    at = np.linalg.inv(nifti.affine) @ np.c_[ras, np.ones(len(ras))].T
    indices = np.rint(at[:3]).astype(int)
    assert np.abs(at[:3] - indices).max() < 0.05
    assert np.all(values[tuple(indices)] > 0)


def test_grey_and_white_matter_are_those_of_the_published_network(
    t1_series_dir: Path, real_data: Path, tmp_path: Path
) -> None:
    figures = run_case([t1_series_dir], model="gwm_light", folder=tmp_path)
    assert_delivered(figures)
    expected = real_data / "gwm_light_expected_mask.nii.gz"
    for found in compare(figures.files["mask.nii.gz"], expected).values():
        assert found["dice"] > 0.98
        assert found["volume_ratio"] == pytest.approx(1, abs=0.01)
    assert_valid(figures.files["mask.dcm"])
    assert_same_voxels(figures)
    first, second = figures.status["result"]["segments"]
    assert first["volume_ml"] == pytest.approx(502.5, rel=0.01)
    assert second["volume_ml"] == pytest.approx(750.7, rel=0.01)


def test_four_phases_of_134_slices_come_back_on_their_own_grid(
    breast_series_dirs: list[Path], tmp_path: Path
) -> None:
    figures = run_case(breast_series_dirs, model="demo_brain_tumor", folder=tmp_path)
    assert_delivered(figures)
    assert figures.status["result"]["total_slices"] == 134
    nifti = nibabel.load(figures.files["mask.nii.gz"])
    assert nifti.shape == (256, 256, 134)
    assert nifti.header.get_zooms() == pytest.approx((0.6641, 0.6641, 1.2), abs=1e-3)
    assert_valid(figures.files["mask.dcm"])
    assert_same_voxels(figures)

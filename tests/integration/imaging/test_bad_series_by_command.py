"""A part of the matrix, and real vendor files, through ``python -m worker segment``."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from tests.support.series_matrix import MATRIX
from tests.support.threshold_model import run_worker, write_threshold_model
from worker.adapters.dicom_read import list_files, read_series

ROWS = {row.name: row for row in MATRIX}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_threshold_model(tmp_path_factory.mktemp("model"), 500.5)


def refusal(config: Path, folder: Path, out: Path) -> str:
    """Segment, expect exit code 64 and one sentence, and give it."""
    done = run_worker("segment", str(folder), "--out", str(out), "--config", str(config))
    assert done.returncode == 64, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "Traceback" not in done.stdout
    assert list(out.glob("mask*")) == []
    return line


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("20,000 sequences in each other", "damaged or cut short"),
        ("Enhanced, two time points", "lie at the same position"),
    ],
)
def test_bad_series_ends_with_64_and_one_sentence(
    tmp_path: Path, config: Path, name: str, words: str
) -> None:
    ROWS[name].make(tmp_path / "in")
    assert words in refusal(config, tmp_path / "in", tmp_path / "out")


def test_unusual_series_gives_a_mask(tmp_path: Path, config: Path) -> None:
    truth = ROWS["Enhanced, compressed"].make(tmp_path / "in")
    assert truth is not None
    out = tmp_path / "out"
    done = run_worker("segment", str(tmp_path / "in"), "--out", str(out), "--config", str(config))
    assert done.returncode == 0, done.stderr
    image = nib.load(out / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), truth.array > 500)


@pytest.mark.real_data
def test_siemens_mosaic_ends_with_64(tmp_path: Path, config: Path, vendor_dir: Path) -> None:
    assert "Siemens mosaic" in refusal(config, vendor_dir / "siemens_mosaic", tmp_path / "out")


@pytest.mark.real_data
def test_ge_series_of_ten_volumes_ends_with_64_and_one_volume_gives_a_mask(
    tmp_path: Path, config: Path, vendor_dir: Path
) -> None:
    files = list_files(vendor_dir / "ge_epi_10_volumes")
    assert "150 images at 15 positions" in refusal(
        config, vendor_dir / "ge_epi_10_volumes", tmp_path / "out"
    )
    firsts: dict[tuple[float, ...], Path] = {}
    for path in files:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        firsts.setdefault(tuple(map(float, header.ImagePositionPatient)), path)
    folder = tmp_path / "one"
    folder.mkdir()
    for path in firsts.values():
        shutil.copy(path, folder)
    out = tmp_path / "out"
    done = run_worker("segment", str(folder), "--out", str(out), "--config", str(config))
    assert done.returncode == 0, done.stderr
    volume = read_series(list_files(folder))
    image = nib.load(out / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume.array > 500)
    np.testing.assert_allclose(image.affine, volume.geometry.affine_ras, atol=1e-4)

"""The real images beside the project: public, de-identified, not part of it."""

import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

from tests.support.imaging_models import TISSUE, model_entry
from tests.support.real_data import *  # noqa: F403 - the fixtures
from tests.support.real_data import real_data_path
from tests.support.threshold_engine import ThresholdEngine
from worker.adapters.dicom_read import list_files, open_series, read_series
from worker.core.errors import SeriesInvalid
from worker.core.job import Case, SeriesFiles
from worker.core.segments import Labels
from worker.pipeline import segment_case

pytestmark = pytest.mark.real_data


class ExpectedMask(ThresholdEngine):
    """Gives a mask that was made elsewhere."""

    def __init__(self, mask: np.ndarray) -> None:
        super().__init__(())
        self._mask = mask

    def segment(self, *_: object) -> Labels:  # type: ignore[override]
        return Labels(array=self._mask, values=(1,))


def dciodvfy_errors(path: Path) -> list[str]:
    run = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    return [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("Error")]


def ignore(_stage: str, _fraction: float) -> None:
    pass


def test_t1_lies_on_the_grid_of_the_expected_mask(
    t1_series_dir: Path, expected_real_masks: dict[str, Any]
) -> None:
    volume = read_series(list_files(t1_series_dir))
    expected = expected_real_masks["mindgrab_expected_mask.nii.gz"]
    assert list(volume.geometry.shape) == expected["shape"]
    np.testing.assert_allclose(volume.geometry.affine_ras, expected["affine_ras"], atol=1e-5)
    for k in (0, 100, 255):
        source = next(
            pydicom.dcmread(path)
            for path in list_files(t1_series_dir)
            if pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID
            == volume.sources[k].sop_instance_uid
        )
        np.testing.assert_array_equal(volume.array[:, :, k], source.pixel_array.T)


def test_t1_mask_keeps_the_expected_volume_and_centre(
    tmp_path: Path, t1_series_dir: Path, expected_real_masks: dict[str, Any]
) -> None:
    expected = expected_real_masks["mindgrab_expected_mask.nii.gz"]["labels"]["1"]
    mask = np.asarray(nib.load(real_data_path("mindgrab_expected_mask.nii.gz")).dataobj)
    case = Case(
        request_id="r1",
        series=(SeriesFiles(series_id="t1", files=list_files(t1_series_dir)),),
        main_series_id="t1",
        model="phantom_model",
        output_dir=tmp_path,
    )
    result = segment_case(
        case,
        model=model_entry(TISSUE),
        engine=ExpectedMask(mask.astype(np.uint8)),
        on_progress=ignore,
    )
    assert result.segments[0].voxels == expected["voxels"]
    assert result.segments[0].volume_ml == pytest.approx(expected["mL"])
    image = nib.load(tmp_path / "mask.nii.gz")
    centre = nib.affines.apply_affine(image.affine, np.argwhere(image.dataobj).mean(axis=0))
    np.testing.assert_allclose(centre * [-1, -1, 1], expected["centroid_lps_mm"], atol=0.01)
    assert (result.start_slice_index, result.end_slice_index) == (
        expected["bbox_voxel"][0][2],
        expected["bbox_voxel"][1][2],
    )
    assert dciodvfy_errors(tmp_path / "mask.dcm") == []


def test_four_breast_phases_give_one_mask_without_errors(
    tmp_path: Path, breast_series_dirs: list[Path]
) -> None:
    """Their positions went through float32 and their headers lack much; rows and columns too."""
    case = Case(
        request_id="r1",
        series=tuple(
            SeriesFiles(series_id=folder.name, files=list_files(folder))
            for folder in breast_series_dirs
        ),
        main_series_id=breast_series_dirs[0].name,
        model="phantom_model",
        output_dir=tmp_path,
    )
    result = segment_case(
        case,
        model=model_entry(channels=("DCE1", "DCE2", "DCE3", "DCE4")),
        engine=ThresholdEngine((2500, 3500)),
        on_progress=ignore,
    )
    assert result.total_slices == 134
    assert result.warnings == ()
    assert dciodvfy_errors(tmp_path / "mask.dcm") == []
    seg = pydicom.dcmread(tmp_path / "mask.dcm")
    counts = [len(item.ReferencedInstanceSequence) for item in seg.ReferencedSeriesSequence]
    assert counts == [134] * 4


def test_ge_series_of_ten_volumes_is_refused_and_one_volume_of_it_is_good(
    vendor_dir: Path,
) -> None:
    files = list_files(vendor_dir / "ge_epi_10_volumes")
    with pytest.raises(SeriesInvalid) as refused:
        open_series(files)
    assert refused.value.code == "duplicate_positions"
    by_position: dict[tuple[float, ...], tuple[int, Path]] = {}
    for path in files:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        position = tuple(float(value) for value in header.ImagePositionPatient)
        found = (int(header.InstanceNumber), path)
        by_position[position] = min(by_position.get(position, found), found)
    volume = read_series([path for _, path in by_position.values()])
    truth = nib.load(vendor_dir / "ge_epi_10_volumes.dcm2niix.nii")
    assert volume.geometry.shape == truth.shape[:3]
    assert_same_picture(volume.array, volume.geometry.affine_ras, truth)


def assert_same_picture(array: np.ndarray, affine: np.ndarray, truth: Any) -> None:
    """Compare with the first volume of a NIfTI file, voxel by voxel, through world coordinates."""
    first = np.asarray(truth.dataobj)[..., 0]
    indices = np.stack(np.indices(array.shape), axis=-1).reshape(-1, 3)
    ras = nib.affines.apply_affine(affine, indices)
    there = nib.affines.apply_affine(np.linalg.inv(truth.affine), ras)
    nearest = np.rint(there).astype(int)
    np.testing.assert_allclose(there, nearest, atol=0.01)
    np.testing.assert_array_equal(first[tuple(nearest.T)].reshape(array.shape), array)


def test_siemens_mosaic_is_refused(vendor_dir: Path) -> None:
    with pytest.raises(SeriesInvalid) as refused:
        open_series(list_files(vendor_dir / "siemens_mosaic"))
    assert refused.value.code == "mosaic"

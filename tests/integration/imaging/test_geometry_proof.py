"""Landmarks through the whole pipeline, in every orientation, found again by other programs."""

import json
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from tests.support.dicom_phantoms import Grid, write_enhanced, write_series
from tests.support.imaging_models import LESION, model_entry
from tests.support.orientations import (
    LANDMARKS,
    VALUES,
    Placed,
    axis_orientations,
    centroids,
    oblique_orientations,
    picture,
    places,
    truth,
)
from tests.support.threshold_engine import ThresholdEngine
from worker.core.job import Case, SeriesFiles
from worker.pipeline import segment_case

ALL = axis_orientations() + oblique_orientations()
SAMPLE = [*ALL[:48:7], *ALL[48:52]]
SPECS = tuple(
    replace(LESION, label_value=label, label=f"Landmark {label}", color_rgb=None)
    for label in LANDMARKS
)
WITHIN_MM = 0.01
LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write(folder: Path, placed: Placed, loader: str) -> tuple[Path, ...]:
    array = picture(placed.grid)
    if loader == "classic":
        return write_series(folder / "in", placed.phantom, array=array)
    return write_enhanced(folder / "in" / "enhanced.dcm", placed.phantom, array=array)


def segment(folder: Path, placed: Placed, loader: str) -> Path:
    """Run the whole pipeline and give the folder of its results."""
    case = Case(
        request_id="r1",
        series=(SeriesFiles(series_id="s", files=write(folder, placed, loader)),),
        main_series_id="s",
        model="phantom_model",
        output_dir=folder / "out",
    )
    segment_case(
        case,
        model=model_entry(*SPECS),
        engine=ThresholdEngine(tuple(VALUES.values())),
        on_progress=lambda _stage, _fraction: None,
    )
    return folder / "out"


def seg_by_highdicom(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Give a label array and its affine to LPS, on whatever grid highdicom makes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volume = hd.seg.segread(path).get_volume(
            combine_segments=True, allow_missing_positions=True
        )
    return np.asarray(volume.array), np.asarray(volume.affine)


def nifti_by_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), affine


def assert_landmarks(found: np.ndarray, grid: Grid) -> None:
    np.testing.assert_allclose(found, places(grid), atol=WITHIN_MM, rtol=0)


@pytest.mark.parametrize("loader", ["classic", "enhanced"])
@pytest.mark.parametrize("placed", ALL, ids=lambda placed: placed.name)
def test_landmarks_are_where_they_were(tmp_path: Path, placed: Placed, loader: str) -> None:
    out = segment(tmp_path, placed, loader)
    assert_landmarks(centroids(*seg_by_highdicom(out / "mask.dcm")), placed.grid)
    assert_landmarks(centroids(*nifti_by_itk(out / "mask.nii.gz")), placed.grid)
    image = nib.load(out / "mask.nii.gz")
    labels = np.asarray(image.dataobj)
    assert_landmarks(centroids(labels, LPS_RAS @ image.affine), placed.grid)
    # Not only the centres: every voxel, on the series' own grid.
    np.testing.assert_array_equal(labels, truth(placed.grid))
    figures = json.loads((out / "report.json").read_text(encoding="utf-8"))["result"]["segments"]
    assert [item["voxels"] for item in figures] == [27] * len(LANDMARKS)


def test_left_is_left(tmp_path: Path) -> None:
    """x grows to the left in DICOM and to the right in NIfTI."""
    placed = next(item for item in ALL if item.name == "RP-ascending")
    out = segment(tmp_path, placed, "classic")
    image = nib.load(out / "mask.nii.gz")
    right, left = sorted(LANDMARKS.values())[-1], sorted(LANDMARKS.values())[0]
    # Columns run to the right here, so the first column is the patient's left: -x in RAS.
    ras = nib.affines.apply_affine(image.affine, [left, right])
    assert ras[0, 0] < ras[1, 0]
    array, affine = seg_by_highdicom(out / "mask.dcm")
    lps = centroids(array, affine)
    assert lps[0, 0] > lps[3, 0]  # landmark 1 stands at the left, 4 at the right


@pytest.mark.dicom_validators
@pytest.mark.parametrize("placed", SAMPLE, ids=lambda placed: placed.name)
def test_dcm2niix_places_the_series_where_we_place_the_mask(tmp_path: Path, placed: Placed) -> None:
    out = segment(tmp_path, placed, "classic")
    subprocess.run(
        ["dcm2niix", "-f", "series", "-z", "n", "-b", "n", "-o", str(out), str(tmp_path / "in")],
        check=True,
        capture_output=True,
    )
    (path,) = out.glob("series*.nii")
    theirs, ours = nib.load(path), nib.load(out / "mask.nii.gz")
    bright = np.rint((np.asarray(theirs.dataobj) - 40) / 500).astype(np.uint8)
    assert_landmarks(centroids(bright, LPS_RAS @ theirs.affine), placed.grid)
    # Its array is flipped against ours; taken to the same order, affine and labels are the same.
    as_ours = theirs.as_reoriented(
        nib.orientations.ornt_transform(
            nib.io_orientation(theirs.affine), nib.io_orientation(ours.affine)
        )
    )
    np.testing.assert_allclose(as_ours.affine, ours.affine, atol=1e-3)


@pytest.mark.dicom_validators
def test_dciodvfy_finds_no_error_in_any_orientation(tmp_path: Path) -> None:
    paths = []
    for placed in ALL[:48]:
        out = segment(tmp_path / placed.name, placed, "classic")
        paths.append(str(out / "mask.dcm"))
    errors = []
    for path in paths:
        run = subprocess.run(["dciodvfy", path], capture_output=True, check=False)
        text = (run.stdout + run.stderr).decode("utf-8", "replace")
        errors += [f"{path}: {line}" for line in text.splitlines() if line.startswith("Error")]
    assert errors == []

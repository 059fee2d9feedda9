import json
import subprocess

import nibabel as nib
import numpy as np
import pydicom
import pytest
from scipy import ndimage

from demo.anatomy import draw_anatomy
from demo.phantom import region_mask
from demo.phantom_dicom import MAIN, PROTOCOLS, acquire, truth_on_main_grid, write_series
from demo.sample import main, write_sample
from demo.seeds import SAMPLE_SEED


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """The same head on the same scanner, without the tumour."""
    return write_sample(tmp_path_factory.mktemp("healthy"), lesions=0)


def read(series):
    return [pydicom.dcmread(path) for path in sorted(series.folder.iterdir())]


def affine_lps(slices):
    """Index (column, row, slice) -> LPS from the headers alone, slices along the normal."""
    first = slices[0]
    column, row = np.reshape(np.array(first.ImageOrientationPatient, float), (2, 3))
    normal = np.cross(column, row)
    slices.sort(key=lambda d: np.dot(normal, np.array(d.ImagePositionPatient, float)))
    positions = np.array([d.ImagePositionPatient for d in slices], float)
    affine = np.eye(4)
    affine[:3, 0] = column * float(first.PixelSpacing[1])
    affine[:3, 1] = row * float(first.PixelSpacing[0])
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(slices) - 1)
    affine[:3, 3] = positions[0]
    return affine


def test_series_say_what_they_are(sample):
    headers = {s.sequence: pydicom.dcmread(next(s.folder.iterdir())) for s in sample}
    assert [s.sequence for s in sample] == ["T1c", "T1", "T2", "FLAIR"]
    assert len({h.FrameOfReferenceUID for h in headers.values()}) == 1
    assert len({h.StudyInstanceUID for h in headers.values()}) == 1
    assert len({h.SeriesInstanceUID for h in headers.values()}) == 4
    assert {str(h.PatientName) for h in headers.values()} == {"DEMO^PHANTOM"}
    assert "ContrastBolusAgent" in headers["T1c"]
    assert "ContrastBolusAgent" not in headers["T1"]
    assert headers["T1"].EchoTime < 20 < 80 < headers["T2"].EchoTime
    assert headers["FLAIR"].InversionTime > 2000


def test_geometry_differs_between_series_and_is_oblique(sample):
    orientations, spacings = set(), set()
    for series in sample:
        first = pydicom.dcmread(next(series.folder.iterdir()))
        orientations.add(tuple(first.ImageOrientationPatient))
        spacings.add((*first.PixelSpacing, first.SpacingBetweenSlices))
        assert np.abs(np.abs(np.array(first.ImageOrientationPatient, float)) - 1).min() > 1e-4
    assert len(orientations) >= 3
    assert len(spacings) == 4


def volume_and_affine(series):
    slices = read(series)
    affine = affine_lps(slices)  # sorts them
    return np.stack([d.pixel_array.T for d in slices], axis=2).astype(float), affine


def test_tumour_lies_at_the_same_world_point_in_every_series_and_the_truth(sample, healthy):
    """What a tumour changes in the pixels, placed by the headers alone, lies where the truth is."""
    labels = truth_on_main_grid(draw_anatomy(SAMPLE_SEED, lesions=1))
    index = np.argwhere(region_mask(labels, "WT")).mean(0)
    expected_lps = (MAIN.grid.affine_ras @ [*index, 1])[:3] * (-1, -1, 1)
    for ill, well in zip(sample, healthy, strict=True):
        volume, affine = volume_and_affine(ill)
        without, _ = volume_and_affine(well)
        # Each series is scaled to its own brightest voxels: compare at the same scale.
        bright = (volume > volume.mean()) & (without > without.mean())
        without *= np.median(volume[bright] / without[bright])
        difference = ndimage.median_filter(np.abs(volume - without), 3)
        parts, _ = ndimage.label(difference > 0.15 * volume[bright].mean())
        changed = parts == np.argmax(np.bincount(parts.ravel())[1:]) + 1
        found = (affine @ [*np.argwhere(changed).mean(0), 1])[:3]
        assert np.linalg.norm(found - expected_lps) < 3, ill.sequence


def test_main_grid_in_the_headers_is_that_of_the_truth(sample):
    _, affine = volume_and_affine(sample[0])
    np.testing.assert_allclose(affine, np.diag([-1, -1, 1, 1]) @ MAIN.grid.affine_ras, atol=1e-5)


def test_landmark_capsule_is_found_at_its_world_point_in_every_series(sample):
    """The fish-oil capsule is the only bright thing beyond the scalp on the patient's left."""
    capsule = draw_anatomy(SAMPLE_SEED, lesions=1).capsule
    expected_lps = np.array(capsule.centre_mm) * (-1, -1, 1)
    for series in sample:
        slices = read(series)
        affine = affine_lps(slices)
        volume = np.stack([d.pixel_array.T for d in slices], axis=2).astype(float)
        grid = np.indices(volume.shape).reshape(3, -1).T
        world = grid @ affine[:3, :3].T + affine[:3, 3]
        near = np.linalg.norm(world - expected_lps, axis=1) < 12
        outwards = world[:, 0] > expected_lps[0] - 1  # away from the scalp
        weight = np.where(near & outwards, volume.reshape(-1), 0)
        weight[weight < 0.4 * weight.max()] = 0
        found = (world * weight[:, None]).sum(0) / weight.sum()
        # Half a capsule is seen, so x is off by about two millimetres; y and z must agree.
        assert np.abs(found - expected_lps)[1:].max() < 1.5, series.sequence
        mirrored = np.linalg.norm(world - expected_lps * (-1, 1, 1), axis=1) < 5
        beyond = world[:, 0] < -expected_lps[0] - 1
        if (mirrored & beyond).any():
            assert volume.reshape(-1)[mirrored & beyond].mean() < weight.max() / 2


def test_instance_numbers_run_against_the_normal_in_one_series(sample):
    flair = read(sample[3])
    by_number = sorted(flair, key=lambda d: d.InstanceNumber)
    assert by_number[0].ImagePositionPatient[2] > by_number[-1].ImagePositionPatient[2]


def test_same_seed_writes_the_same_bytes(sample, tmp_path):
    protocol = PROTOCOLS[2]
    scan = acquire(draw_anatomy(SAMPLE_SEED, lesions=1), protocol)
    again = write_series(scan, tmp_path, SAMPLE_SEED)
    for path in again:
        assert path.read_bytes() == (sample[2].folder / path.name).read_bytes()


@pytest.mark.slow
def test_command_writes_the_truth_beside_the_folder_and_prints_json(tmp_path, capsys):
    truth = tmp_path / "truth.nii.gz"
    out = tmp_path / "dicom"
    assert main([str(out), "--seed", "12", "--lesions", "0", "--truth", str(truth), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [s["files"] for s in answer["series"]] == [p.shape[2] for p in PROTOCOLS]
    image = nib.load(truth)
    np.testing.assert_allclose(image.affine, MAIN.grid.affine_ras, atol=1e-4)
    assert image.shape == MAIN.shape
    assert not np.asarray(image.dataobj).any()
    assert sorted(p.name for p in out.iterdir()) == ["1_T1c", "2_T1", "3_T2", "4_FLAIR"]


@pytest.mark.dicom_validators
def test_every_file_is_valid_dicom(sample):
    for series in sample:
        for path in series.folder.iterdir():
            done = subprocess.run(
                ["dciodvfy", str(path)], capture_output=True, text=True, check=False
            )
            assert "Error" not in done.stderr + done.stdout, path

"""The volume that the viewer shows in three planes, against the phantom's own numbers."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from django_queue_app.pacs import get_pacs
from tests.support import dicom_phantoms
from tests.support.dicom_phantoms import GRIDS, Grid, Phantom
from tests.support.small_series import mr_instance, store

pytestmark = pytest.mark.django_db


@pytest.fixture
def doctor(client: Client) -> Client:
    client.force_login(get_user_model().objects.create_user("doctor"))
    return client


def _store_folder(paths: list[Path]) -> str:
    return [get_pacs().store_instance(path.read_bytes()).series_id for path in paths][-1]


def _volume(doctor: Client, series_id: str) -> nib.Nifti1Image:
    answer = doctor.get(f"/viewer/series/{series_id}/volume.nii.gz")
    assert answer.status_code == 200, answer.content
    assert "no-store" in answer["Cache-Control"]
    return nib.Nifti1Image.from_bytes(gzip.decompress(answer.content))


def _assert_lies_on(image: nib.Nifti1Image, grid: Grid, voxels: np.ndarray) -> None:
    for i, j, k in ((0, 0, 0), (21, 3, 5), (4, 17, 13)):
        right, anterior, superior = (image.affine @ (i, j, k, 1))[:3]
        np.testing.assert_allclose((-right, -anterior, superior), grid.world(i, j, k), atol=1e-3)
    np.testing.assert_array_equal(np.asarray(image.dataobj), voxels)


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_every_voxel_is_where_the_series_has_it(doctor: Client, tmp_path: Path, name: str) -> None:
    phantom = Phantom(grid=GRIDS[name])
    series_id = _store_folder(dicom_phantoms.write_series(tmp_path, phantom))
    _assert_lies_on(_volume(doctor, series_id), phantom.grid, dicom_phantoms.paint(phantom.grid))


def test_frames_of_an_enhanced_series_are_slices(doctor: Client, tmp_path: Path) -> None:
    phantom = Phantom(grid=GRIDS[min(GRIDS)])
    path = tmp_path / "enhanced.dcm"
    dicom_phantoms.write_enhanced(path, phantom)
    series_id = _store_folder([path])
    _assert_lies_on(_volume(doctor, series_id), phantom.grid, dicom_phantoms.paint(phantom.grid))


def test_a_series_that_grew_is_read_again(doctor: Client, tmp_path: Path) -> None:
    files = dicom_phantoms.write_series(tmp_path, Phantom())
    series_id = _store_folder(files[:5])
    assert _volume(doctor, series_id).shape[2] == 5
    _store_folder(files[5:7])
    assert _volume(doctor, series_id).shape[2] == 7


def test_what_is_no_volume_is_said_so_in_the_page_s_language(doctor: Client) -> None:
    uids = {"SeriesInstanceUID": "1.2.3.4", "StudyInstanceUID": "1.2.3"}
    series_id = store([mr_instance(0, ImagePositionPatient=None, **uids)])
    path = f"/viewer/series/{series_id}/volume.nii.gz"
    answer = doctor.get(path, headers={"accept-language": "ko"})
    assert (answer.status_code, answer.json()["code"]) == (422, "no_volume")
    assert "슬라이스" in answer.json()["error"]


def test_a_volume_is_for_who_is_signed_in(client: Client) -> None:
    assert client.get("/viewer/series/x/volume.nii.gz").status_code == 302

"""The pages that a person opens, and the slices that their viewer shows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from PIL import Image

from django_queue_app.pacs import get_pacs
from django_queue_app.slices import edge_letters
from tests.support import dicom_phantoms
from tests.support.small_series import mr_series, store

pytestmark = pytest.mark.django_db


@pytest.fixture
def doctor(client: Client) -> Client:
    client.force_login(get_user_model().objects.create_user("doctor"))
    return client


@pytest.mark.parametrize("path", ["/", "/viewer/series/x/", "/viewer/series/x/slices/0.png"])
def test_who_is_not_signed_in_is_led_to_the_way_in(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 302
    assert answer["Location"].startswith("/login/")


def test_a_wrong_password_is_told_in_one_sentence(client: Client) -> None:
    answer = client.post("/login/", {"username": "doctor", "password": "wrong"})
    assert answer.status_code == 200
    assert "do not match" in answer.content.decode()


def test_the_way_in_and_out(client: Client) -> None:
    get_user_model().objects.create_user("kim", password="a long enough one")
    answer = client.post("/login/", {"username": "kim", "password": "a long enough one"})
    assert (answer.status_code, answer["Location"]) == (302, "/")
    assert client.get("/").status_code == 200
    assert client.post("/logout/")["Location"] == "/login/"
    assert client.get("/").status_code == 302


def test_series_are_shown_by_study_and_other_modalities_are_not(doctor: Client) -> None:
    store(mr_series(description="T1 axial", study="1"))
    store(mr_series(description="FLAIR axial", study="1"))
    store(mr_series(description="Elsewhere", study="2"))
    store(mr_series(description="A CT", study="2", modality="CT"))
    shown = doctor.get("/").content.decode()
    assert shown.count('class="card study"') == 2
    assert "Phantom Api" in shown
    assert "T1 axial" in shown
    assert "A CT" not in shown


def test_an_empty_store_says_what_to_do(doctor: Client) -> None:
    assert "import_dicom" in doctor.get("/").content.decode()


def test_hostile_text_is_shown_as_text(doctor: Client) -> None:
    store(mr_series(description="<script>alert(1)</script>"))
    shown = doctor.get("/").content.decode()
    assert "<script>alert" not in shown
    assert "&lt;script&gt;alert" in shown


def test_pages_load_nothing_from_elsewhere_and_are_kept_by_no_cache(doctor: Client) -> None:
    answer = doctor.get("/")
    assert "default-src 'none'" in answer["Content-Security-Policy"]
    assert "no-store" in answer["Cache-Control"]


@pytest.mark.parametrize("name", sorted(dicom_phantoms.GRIDS))
def test_slices_are_the_sources_own_along_the_normal(
    doctor: Client, tmp_path: Path, name: str
) -> None:
    grid = dicom_phantoms.GRIDS[name]
    phantom = dicom_phantoms.Phantom(grid=grid)
    series_id = _store_folder(dicom_phantoms.write_series(tmp_path, phantom))
    described = doctor.get(f"/viewer/series/{series_id}/").json()
    columns, rows, slices = grid.shape
    assert (described["columns"], described["rows"], described["slices"]) == (columns, rows, slices)
    voxels = dicom_phantoms.paint(grid)
    for k in (2, 3, 7):  # the outermost slices are empty
        shown = _picture(doctor, series_id, k)
        assert shown.shape == (rows, columns)
        # The window is monotonous, so ranks tell whether it is this slice and not turned.
        assert np.corrcoef(shown.ravel(), voxels[:, :, k].T.ravel())[0, 1] > 0.9


def test_a_slice_that_came_in_later_is_shown_in_its_place(doctor: Client, tmp_path: Path) -> None:
    files = dicom_phantoms.write_series(tmp_path, dicom_phantoms.Phantom())
    first, late, last = files[3], files[5], files[10]  # three that look different
    series_id = _store_folder([first, last])
    before = _picture(doctor, series_id, 1)
    _store_folder([late])
    np.testing.assert_array_equal(_picture(doctor, series_id, 2), before)
    assert (_picture(doctor, series_id, 1) != before).any()


def test_a_slice_that_is_not_there_is_404(doctor: Client) -> None:
    series_id = store(mr_series())
    assert doctor.get(f"/viewer/series/{series_id}/slices/99.png").status_code == 404
    assert doctor.get("/viewer/series/unknown/").status_code == 404
    told = doctor.get("/viewer/series/unknown/", headers={"accept-language": "ko"}).json()
    assert (told["code"], "시리즈" in told["error"]) == ("series_not_found", True)


@pytest.mark.parametrize(
    ("orientation", "letters"),
    [
        ((1, 0, 0, 0, 1, 0), {"right": "L", "left": "R", "bottom": "P", "top": "A"}),
        ((-1, 0, 0, 0, 1, 0), {"right": "R", "left": "L", "bottom": "P", "top": "A"}),
        ((0, 1, 0, 0, 0, -1), {"right": "P", "left": "A", "bottom": "I", "top": "S"}),
        ((1, 0, 0, 0, 0, -1), {"right": "L", "left": "R", "bottom": "I", "top": "S"}),
    ],
)
def test_the_edges_are_named_by_where_they_point(
    orientation: tuple[float, ...], letters: dict[str, str]
) -> None:
    assert edge_letters(orientation) == letters


def _store_folder(files: Any) -> str:
    stored = [get_pacs().store_instance(Path(path).read_bytes()) for path in files]
    return stored[0].series_id


def _picture(client: Client, series_id: str, index: int) -> Any:
    answer = client.get(f"/viewer/series/{series_id}/slices/{index}.png")
    assert answer["Content-Type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.content)), dtype=float)


def test_what_is_pressed_after_signing_out_is_told_not_to_have_happened(client: Client) -> None:
    get_user_model().objects.create_user("kim", password="a long enough one")
    form = f"/queue/{'0' * 8}-0000-0000-0000-{'0' * 12}/cancel/"
    answer = client.post(form, headers={"Referer": "http://testserver/queue/?status=failed"})
    assert answer["Location"] == "/login/?next=/queue/%3Fstatus%3Dfailed"
    assert "nothing was changed" in client.get(answer["Location"]).content.decode()
    assert "nothing was changed" not in client.get("/login/").content.decode()


@pytest.mark.parametrize("referer", ["", "https://evil.example/queue/", "//evil.example"])
def test_who_signs_in_again_comes_back_to_this_site_only(client: Client, referer: str) -> None:
    form = f"/queue/{'0' * 8}-0000-0000-0000-{'0' * 12}/cancel/"
    answer = client.post(form, headers={"Referer": referer})
    assert answer["Location"] in {"/login/?next=", "/login/?next=/", "/login/"}


@pytest.mark.parametrize(
    ("language", "sentence"),
    [("en", "There is nothing at this address"), ("ko", "이 주소에는 아무것도 없습니다.")],
)
def test_an_address_that_does_not_exist_is_told_in_words(
    client: Client, language: str, sentence: str
) -> None:
    answer = client.get("/studie/", headers={"accept-language": language})
    assert answer.status_code == 404
    assert sentence in answer.content.decode()
    assert client.get("/api/mri/segmentation/nothing/").json()["success"] is False

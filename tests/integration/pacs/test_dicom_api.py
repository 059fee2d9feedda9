from __future__ import annotations

import io
import zipfile
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from django_queue_app.pacs import get_pacs
from django_queue_app.pacs.intake import MAX_NAMED
from tests.support import small_series

pytestmark = pytest.mark.django_db

URL = "/api/mri/dicom/"


@pytest.fixture
def signed_in(client: Client, django_user_model: Any) -> Client:
    client.force_login(django_user_model.objects.create_user("doctor"))
    return client


def post(client: Client, data: bytes, kind: str = "application/dicom", **headers: str) -> Any:
    return client.post(
        URL,
        data,
        content_type=kind,
        headers={"Sec-Fetch-Site": "same-origin", **headers},
    )


def zipped(files: list[bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, data in enumerate(files):
            archive.writestr(f"{number}.dcm", data)
    return buffer.getvalue()


def test_one_instance_is_stored_and_again_is_no_change(signed_in: Client) -> None:
    data = small_series.mr_series()[0]
    answer = post(signed_in, data)
    assert answer.status_code == 201
    body = answer.json()
    assert (body["success"], body["stored"], body["problems"]) == (True, 1, [])
    assert get_pacs().read_instance(body["instance_ids"][0]) == data
    again = post(signed_in, data)
    assert again.status_code == 200
    assert again.json()["already_stored"] == 1


def test_a_zip_is_stored(signed_in: Client) -> None:
    answer = post(signed_in, zipped(small_series.mr_series()), "application/zip")
    assert answer.status_code == 201
    assert answer.json()["series"][0]["instances"] == 3


def test_a_form_of_files_and_zips_is_stored(signed_in: Client) -> None:
    files, others = small_series.mr_series(), small_series.mr_series(study="2")
    uploads = [
        SimpleUploadedFile("a.dcm", files[0]),
        SimpleUploadedFile("b.zip", zipped(others)),
        SimpleUploadedFile("c.txt", b"no DICOM"),
    ]
    answer = signed_in.post(URL, {"file": uploads}, headers={"Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 201
    body = answer.json()
    assert (body["stored"], body["refused"]) == (4, 1)
    assert body["problems"][0]["code"] == "not_dicom"


def test_a_large_form_part_is_read_from_its_temporary_file(
    signed_in: Client, settings: Any
) -> None:
    settings.FILE_UPLOAD_MAX_MEMORY_SIZE = 100
    upload = SimpleUploadedFile("b.zip", zipped(small_series.mr_series()))
    answer = signed_in.post(URL, {"file": upload}, headers={"Sec-Fetch-Site": "same-origin"})
    assert answer.json()["stored"] == 3


@pytest.mark.parametrize(
    ("data", "kind", "status", "code"),
    [
        (b"x", "application/json", 415, "unsupported_media_type"),
        (b"x", "", 415, "unsupported_media_type"),
        (b"nonsense", "application/dicom", 422, "not_dicom"),
        (b"PK\x03\x04", "application/zip", 400, "bad_zip"),
        (b"x", "multipart/form-data", 400, "bad_body"),
        (b"--b\r\n", "multipart/form-data; boundary=b", 400, "bad_body"),
    ],
)
def test_what_can_not_be_taken_is_refused_by_name(
    signed_in: Client, data: bytes, kind: str, status: int, code: str
) -> None:
    answer = post(signed_in, data, kind)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["success"] is False


def test_an_empty_body_is_refused(signed_in: Client) -> None:
    headers = {"Sec-Fetch-Site": "same-origin"}
    answer = signed_in.generic("POST", URL, headers=headers, CONTENT_TYPE="application/dicom")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_body")


def test_a_cut_instance_is_refused_in_korean_to_who_reads_it(signed_in: Client) -> None:
    answer = post(signed_in, small_series.mr_series()[0][:-9], **{"Accept-Language": "ko"})
    assert (answer.status_code, answer.json()["code"]) == (422, "truncated")
    assert "DICOM 파일이 잘렸습니다" in answer.json()["error"]


def test_more_bytes_than_allowed_are_refused(signed_in: Client, settings: Any) -> None:
    settings.MAX_UPLOAD_BYTES = 100
    assert post(signed_in, small_series.mr_series()[0]).status_code == 413


def test_a_zip_of_nothing_names_its_problems(signed_in: Client) -> None:
    cut = [data[:-9] for data in small_series.mr_series()]
    answer = post(signed_in, zipped(cut), "application/zip")
    assert (answer.status_code, answer.json()["code"]) == (422, "nothing_stored")
    assert 0 < len(answer.json()["problems"]) <= MAX_NAMED


def test_it_is_for_signed_in_users(client: Client) -> None:
    assert post(client, small_series.mr_series()[0]).status_code == 401


def test_it_refuses_another_sites_form(django_user_model: Any) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(django_user_model.objects.create_user("doctor"))
    answer = post(strict, small_series.mr_series()[0], **{"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403

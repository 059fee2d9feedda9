"""Paths, names, headers, hosts and bodies that mean harm are refused, and nothing leaks."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from tests.security.test_who_sees_what import Held, held
from tests.support.small_series import mr_series, store

__all__ = ["held"]

API = "/api/mri/segmentation"
EVIL = "<script>alert(1)</script>"
TRAVERSALS = [
    "../../secret.key",
    "..%2F..%2Fsecret.key",
    "%2e%2e%2fsecret.key",
    "..%5C..%5Csecret.key",
    "%252e%252e%252fsecret.key",
    "mask.dcm%00.png",
    "mask.dcm%0d%0aX-Evil:%201",
    "....//mask.dcm",
    "/etc/passwd",
    "C:%5Cwindows",
]


@pytest.mark.parametrize("name", TRAVERSALS)
def test_no_name_of_an_artifact_leads_out_of_its_folder(
    held: Held, site_folder: Path, name: str
) -> None:
    from django_queue_app.models import Artifact

    body = b"x"
    digest = hashlib.sha256(body).digest()
    before = sorted(site_folder.rglob("*"))
    answer = held.client.put(
        f"{API}/requests/{held.request_id}/artifacts/{name}",
        data=body,
        headers=held.site.as_worker(
            **{
                "If-Match": f'"{held.lease}"',
                "Content-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:",
            }
        ),
    )
    assert answer.status_code in {400, 404, 405}
    assert "X-Evil" not in answer
    assert not Artifact.objects.exists()
    assert sorted(site_folder.rglob("*")) == before


@pytest.mark.parametrize("name", TRAVERSALS)
@pytest.mark.parametrize("form", ["requests/{r}/{n}", "requests/{r}/instances/{n}"])
def test_no_name_in_an_address_reads_a_file(held: Held, form: str, name: str) -> None:
    path = f"{API}/" + form.format(r=held.request_id, n=name)
    for headers in (held.site.as_user(), held.site.as_worker()):
        answer = held.client.get(path, headers=headers)
        assert answer.status_code in {400, 403, 404}


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "%2e%2e/settings.py", "x%00", "..%5cx"])
def test_static_files_and_the_viewer_read_nothing_else(
    client: Client, site: Any, name: str
) -> None:
    client.force_login(site.user)
    for place in ("/static/", "/viewer/series/", "/admin/"):
        assert client.get(place + name).status_code in {301, 302, 400, 404}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "a b", "", "localhost@evil"])
def test_a_forged_host_is_refused_without_an_echo(client: Client, site: Any, host: str) -> None:
    for path in ("/", "/login/", f"{API}/health/", "/admin/login/"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == 400
        assert b"evil" not in answer.content


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 50_000 + b"]" * 50_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"sequence_series_ids": ["' + b"x" * 300 + b'"]}',
        b'{"sequence_series_ids": [' + b'"a",' * 60_000 + b'"a"]}',
        b'{"priority": ' + b"9" * 5_000 + b"}",
        b'{"priority": 1e999999}',
        b'{"model": "\\ud800"}',
        b'{"model": "a\\u0000b"}',
        b'{"__proto__": {"x": 1}, "model": ["a"]}',
        '{"model": "x"}'.encode("utf-16"),
    ],
)
def test_deep_long_and_odd_json_is_refused_in_a_short_sentence(
    client: Client, site: Any, body: bytes
) -> None:
    answer = client.post(
        f"{API}/series/{site.series_id}/request-local/",
        data=body,
        content_type="application/json",
        headers=site.as_user(),
    )
    assert answer.status_code in {400, 404, 422}, answer.content[:300]
    assert len(answer.content) < 3_000


def test_too_much_json_is_413(client: Client, site: Any) -> None:
    answer = client.post(
        f"{API}/series/{site.series_id}/request-local/",
        data=b" " * (11 << 20),
        content_type="application/json",
        headers=site.as_user(),
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


HEADER_VALUES = ['x"\r\nX-Evil: 1', "x\nSet-Cookie: a=b", "\x00", "é" * 4_000, "W/" * 20_000]


@pytest.mark.parametrize("value", HEADER_VALUES)
@pytest.mark.parametrize(
    "header", ["If-Match", "Idempotency-Key", "Prefer", "Range", "If-None-Match", "Last-Event-ID"]
)
def test_no_header_of_a_call_comes_back_as_one(held: Held, header: str, value: str) -> None:
    answer = held.client.get(held.instance, headers=held.site.as_worker(**{header: value}))
    assert answer.status_code < 500
    assert "X-Evil" not in answer
    assert not answer.cookies
    followed = held.client.get(
        f"{API}/requests/{held.request_id}/events/",
        headers={**held.site.as_user(), header: value},
    )
    assert followed.status_code == 200
    assert "X-Evil" not in followed


def test_dicom_text_is_never_code(client: Client, site: Any) -> None:
    """Page, admin and JSON: text of an image is text, and no answer is sniffed as a page."""
    series_id = store(mr_series(description=EVIL))
    site.user.is_staff = site.user.is_superuser = True
    site.user.save()
    client.force_login(site.user)
    listed = client.get(f"{API}/series/")
    assert EVIL in json.dumps(listed.json())
    assert listed["Content-Type"].startswith("application/json")
    client.post(
        f"{API}/series/{series_id}/request-local/",
        data={"model": EVIL},
        content_type="application/json",
        headers={"Sec-Fetch-Site": "same-origin"},
    )
    queue = "/admin/django_queue_app/segmentationrequest/"
    for path in ("/", queue, f"{queue}?q={EVIL}", "/admin/django_queue_app/event/"):
        page = client.get(path)
        assert page.status_code == 200
        assert EVIL.encode() not in page.content
        assert "script-src 'self'" in page["Content-Security-Policy"]


SECURITY_HEADERS = {
    "Content-Security-Policy",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "Referrer-Policy",
    "Permissions-Policy",
    "Cross-Origin-Resource-Policy",
}


@pytest.mark.parametrize(
    "path",
    [
        "/login/",
        "/",
        "/nothing/here",
        "/admin/login/",
        "/api/mri/openapi.json",
        "/api/mri/nope",
        f"{API}/health/",
        f"{API}/series/",
        "/metrics",
        "/static/admin/css/base.css",
    ],
)
def test_every_answer_has_the_security_headers(client: Client, site: Any, path: str) -> None:
    answer = client.get(path)
    assert set(answer.headers) >= SECURITY_HEADERS
    policy = answer["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_a_worker_can_not_pass_for_a_page(client: Client, site: Any) -> None:
    """A token is no session: it opens neither pages nor the admin."""
    for path in ("/", "/admin/", "/viewer/series/x/"):
        for headers in (site.as_worker(), site.as_user()):
            assert client.get(path, headers=headers).status_code == 302

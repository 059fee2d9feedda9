"""No credentials 401, wrong ones 403, another site's page 403."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from django.test import Client

API = "/api/mri/segmentation"
FRONT_END = ["series/", "requests/", "status/x/", "instances/x/frames/", "requests/x/mask.dcm"]


def basic(name: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()}


@pytest.mark.parametrize("path", [*FRONT_END, "pending-requests/", "requests/x/instances/y"])
def test_without_credentials_every_call_is_401(client: Client, site: Any, path: str) -> None:
    answer = client.get(f"{API}/{path}")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Digest x", "Basic", "Basic !", "é", ""])
def test_credentials_that_are_none_are_401(client: Client, site: Any, header: str) -> None:
    answer = client.get(f"{API}/series/", headers={"Authorization": header})
    assert answer.status_code == 401


@pytest.mark.parametrize("secret", ["wrong", "mri_" + "A" * 43, "é", "\ud7ff"])
def test_wrong_credentials_are_403(client: Client, site: Any, secret: str) -> None:
    for headers in ({"Authorization": f"Bearer {secret}"}, basic("lab-pc", secret)):
        answer = client.get(f"{API}/pending-requests/", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "credentials_refused")


def test_a_revoked_token_is_403(client: Client, site: Any) -> None:
    from django_queue_app import tokens

    tokens.revoke(site.worker_token)
    answer = client.get(f"{API}/pending-requests/", headers=site.as_worker())
    assert answer.status_code == 403


def test_a_worker_may_send_its_token_as_basic(client: Client, site: Any) -> None:
    good = basic("lab-pc", site.worker_secret)
    assert client.get(f"{API}/pending-requests/", headers=good).status_code == 200
    other_name = basic("other", site.worker_secret)
    assert client.get(f"{API}/pending-requests/", headers=other_name).status_code == 403


@pytest.mark.parametrize("path", FRONT_END)
def test_a_worker_can_not_make_a_front_ends_call(client: Client, site: Any, path: str) -> None:
    answer = client.get(f"{API}/{path}", headers=site.as_worker())
    assert (answer.status_code, answer.json()["code"]) == (403, "user_required")


def test_a_user_can_not_make_a_workers_call(client: Client, site: Any) -> None:
    for method, path in [
        ("post", "pending-requests/claim/"),
        ("post", "update-status/x/"),
        ("post", "complete-request/x/"),
        ("get", "requests/x/instances/y"),
        ("post", "requests/x/instances/"),
        ("put", "requests/x/artifacts/mask.dcm"),
    ]:
        answer = getattr(client, method)(f"{API}/{path}", headers=site.as_user())
        assert (answer.status_code, answer.json()["code"]) == (403, "worker_token_required")
    client.force_login(site.user)
    assert client.post(f"{API}/pending-requests/claim/").status_code == 401


def test_a_user_of_the_page_is_known_by_the_session(client: Client, site: Any) -> None:
    client.force_login(site.user)
    assert client.get(f"{API}/series/").status_code == 200
    assert client.get(f"{API}/pending-requests/").json()["count"] == 0


@pytest.fixture
def page(site: Any) -> Client:
    """A browser in which the user is signed in, with every check on."""
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(site.user)
    return browser


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "same-origin"}, 202),
        ({"sec-fetch-site": "none"}, 202),
        ({"origin": "http://testserver"}, 202),
        ({"origin": "http://testserver", "sec-fetch-site": "same-origin"}, 202),
        ({}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://[bad"}, 403),
        # A browser that says cross-site is believed, whatever the origin looks like.
        ({"origin": "http://testserver", "sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_an_unsafe_call_by_session_must_come_from_this_site(
    page: Client, site: Any, headers: dict[str, str], status: int
) -> None:
    answer = page.post(
        f"{API}/series/{site.series_id}/segment/",
        data={},
        content_type="application/json",
        headers={"prefer": "respond-async", **headers},
    )
    assert answer.status_code == status, answer.content
    if status == 403:
        assert answer.json()["code"] == "cross_site"


def test_djangos_token_works_too(page: Client, site: Any) -> None:
    page.get("/login/")
    page.cookies["csrftoken"] = token = "a" * 32
    answer = page.post(
        f"{API}/series/{site.series_id}/request-local/",
        data={},
        content_type="application/json",
        headers={"x-csrftoken": token},
    )
    assert answer.status_code == 202, answer.content


def test_a_token_needs_no_protection_from_other_sites(site: Any) -> None:
    answer = Client(enforce_csrf_checks=True).post(
        f"{API}/series/{site.series_id}/request-local/",
        data={},
        content_type="application/json",
        headers={**site.as_user(), "origin": "http://evil.example"},
    )
    assert answer.status_code == 202


def test_a_cookie_does_not_help_a_wrong_token(page: Client, site: Any) -> None:
    answer = page.get(f"{API}/series/", headers={"Authorization": "Bearer wrong"})
    assert answer.status_code == 403


def test_many_wrong_tokens_are_429_but_right_ones_go_on(
    client: Client, site: Any, settings: Any
) -> None:
    settings.SEGMENTATION_LIMIT_WRONG_TOKENS = 5
    wrong = {"Authorization": "Bearer wrong"}
    for _ in range(5):
        assert client.get(f"{API}/series/", headers=wrong).status_code == 403
    answer = client.get(f"{API}/series/", headers=wrong)
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many")
    assert 1 <= int(answer["Retry-After"]) <= 60
    assert client.get(f"{API}/series/", headers=site.as_user()).status_code == 200


def test_errors_speak_korean_to_who_prefers_it(client: Client, site: Any) -> None:
    answer = client.get(f"{API}/series/", headers={"Accept-Language": "ko-KR,ko;q=0.9,en;q=0.8"})
    assert "로그인" in answer.json()["error"]
    assert "로그인".encode() in answer.content
    assert answer.json()["code"] == "unauthenticated"


@pytest.mark.parametrize("path", ["/api/", "/api/nope", "/api/mri/segmentation/", "/api/mri/x/%00"])
def test_an_unknown_address_is_404_in_json(client: Client, site: Any, path: str) -> None:
    for method in ("get", "post", "delete"):
        answer = getattr(client, method)(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_method_that_an_address_does_not_take_is_405_in_json(client: Client, site: Any) -> None:
    answer = client.delete(f"{API}/requests/", headers=site.as_user())
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer["Allow"] == "GET"


def test_a_database_that_is_away_is_503(
    client: Client, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import OperationalError

    from django_queue_app.models import SegmentationRequest

    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr(type(SegmentationRequest.objects), "all", away)
    answer = client.get(f"{API}/requests/", headers=site.as_user())
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert int(answer["Retry-After"]) >= 1
    assert "locked" not in answer.content.decode()


def test_a_mistake_of_ours_is_a_bland_500(
    client: Client, site: Any, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    from django_queue_app.models import SegmentationRequest

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret detail")

    settings.DEBUG = True
    monkeypatch.setattr(type(SegmentationRequest.objects), "all", broken)
    answer = client.get(f"{API}/requests/", headers=site.as_user())
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret detail" not in answer.content.decode()


def test_health_tells_anybody_little_and_a_user_everything(client: Client, site: Any) -> None:
    anybody = client.get(f"{API}/health/")
    assert anybody.status_code == 200
    assert set(anybody.json()) == {"success", "ok", "version"}
    known = client.get(f"{API}/health/", headers=site.as_user()).json()
    assert known["queue"]["lab"]["pending"] == 0
    assert known["pacs_reachable"] is True
    assert known["problems"] == []
    wrong = client.get(f"{API}/health/", headers={"Authorization": "Bearer wrong"})
    assert wrong.status_code == 403


def test_health_names_what_is_wrong(client: Client, site: Any, settings: Any) -> None:
    settings.SEGMENTATION_DEIDENTIFY = False
    path = f"{API}/series/{site.series_id}/request-local/"
    client.post(path, data={}, content_type="application/json", headers=site.as_user())
    report = client.get(f"{API}/health/", headers=site.as_user()).json()
    assert [one["code"] for one in report["problems"]] == ["no_worker", "deidentify_off"]
    assert report["ok"] is False
    assert report["queue"]["lab"]["pending"] == 1


def test_the_document_is_for_everybody_and_only_to_be_read(page: Client, site: Any) -> None:
    assert Client().get("/api/mri/openapi.json").status_code == 200
    answer = page.post("/api/mri/openapi.json")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")

"""The tokens page: made by who may, shown once, useless once revoked."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.contrib.sessions.models import Session
from django.test import Client

from django_queue_app import tokens
from django_queue_app.models import ApiToken
from tests.support.live_site import WORKER, new_key

pytestmark = pytest.mark.django_db

API = "/api/mri/segmentation"


@pytest.fixture
def operator() -> Any:
    """A user who may manage tokens, and is no superuser."""
    user = get_user_model().objects.create_user("operator")
    user.user_permissions.add(Permission.objects.get(codename="change_apitoken"))
    return user


@pytest.fixture
def desk(client: Client, operator: Any) -> Client:
    """The operator, signed in."""
    client.force_login(operator)
    return client


@pytest.fixture
def chief() -> Any:
    return get_user_model().objects.create_superuser("chief")


def make(client: Client, name: str = "lab-pc", owner: Any = "lab") -> str:
    answer = client.post("/tokens/", {"name": name, "owner": owner})
    assert answer.status_code == 200
    return answer.content.decode()


def secret_of(shown: str) -> str:
    [secret] = re.findall(r'<span id="secret">(mri_[\w-]{43})</span>', shown)
    return str(secret)


def sentence_of(shown: str) -> str:
    [sentence] = re.findall(r'<p class="message error" role="alert">(.*?)</p>', shown)
    return html.unescape(sentence)


def claim(secret: str) -> Any:
    headers = {"Authorization": f"Bearer {secret}", "Idempotency-Key": new_key()}
    path = f"{API}/pending-requests/claim/"
    return Client().post(path, data=WORKER, content_type="application/json", headers=headers)


def list_requests(secret: str) -> Any:
    return Client().get(f"{API}/requests/", headers={"Authorization": f"Bearer {secret}"})


def test_who_is_not_signed_in_makes_no_token(client: Client) -> None:
    assert client.get("/tokens/")["Location"] == "/login/?next=/tokens/"
    answer = client.post("/tokens/", {"name": "lab-pc", "owner": "lab"})
    assert answer["Location"].startswith("/login/")
    assert not ApiToken.objects.exists()


@pytest.mark.parametrize("may_view", [False, True])
def test_who_has_no_permission_is_told_which_is_missing(client: Client, may_view: bool) -> None:
    user = get_user_model().objects.create_user("doctor", is_staff=True)
    if may_view:
        user.user_permissions.add(Permission.objects.get(codename="view_apitoken"))
    client.force_login(user)
    token = tokens.create(name="kept-pc", kind="worker", lane="lab")[0]
    answers = [
        client.get("/tokens/"),
        client.post("/tokens/", {"name": "lab-pc", "owner": "lab"}),
        client.post(f"/tokens/{token.pk}/revoke/"),
    ]
    for answer in answers:
        assert answer.status_code == 403
        shown = answer.content.decode()
        assert "“Can change api token”" in shown
        assert "kept-pc" not in shown
    assert ApiToken.objects.live().get() == token


def test_the_way_to_the_page_is_shown_to_who_may_use_it(desk: Client) -> None:
    assert 'href="/tokens/"' in desk.get("/queue/").content.decode()
    desk.force_login(get_user_model().objects.create_user("doctor"))
    assert 'href="/tokens/"' not in desk.get("/queue/").content.decode()


def test_without_a_token_the_page_says_so(desk: Client) -> None:
    assert "There is no token yet." in desk.get("/tokens/").content.decode()


def test_a_secret_is_shown_once_and_kept_nowhere(desk: Client) -> None:
    made = make(desk, "Lab PC 1")
    secret = secret_of(made)
    assert f'WORKER_TOKEN=<span id="secret">{secret}' in made
    assert made.count(secret) == 1
    for path in ("/tokens/", "/queue/"):
        assert secret not in desk.get(path).content.decode()
    rows = [*ApiToken.objects.values(), *(one.get_decoded() for one in Session.objects.all())]
    assert len(rows) == 2
    assert secret not in repr(rows)
    assert secret not in repr(desk.cookies)
    assert tokens.digest_of(secret) not in desk.get("/tokens/").content.decode()


def test_a_page_with_a_secret_is_kept_by_no_cache(desk: Client) -> None:
    answer = desk.post("/tokens/", {"name": "lab-pc", "owner": "lab"})
    assert "no-store" in answer["Cache-Control"]
    assert "default-src 'none'" in answer["Content-Security-Policy"]


@pytest.mark.parametrize("lane", ["lab", "cloud"])
def test_a_workers_token_works_until_it_is_revoked(desk: Client, lane: str) -> None:
    secret = secret_of(make(desk, owner=lane))
    token = ApiToken.objects.get()
    assert (token.kind, token.lane, token.user) == ("worker", lane, None)
    assert claim(secret).status_code == 204
    assert list_requests(secret).status_code == 403  # it stands for no user
    answer = desk.post(f"/tokens/{token.pk}/revoke/", follow=True)
    assert answer.redirect_chain == [("/tokens/", 302)]
    assert "The token “lab-pc” is revoked." in answer.content.decode()
    refused = claim(secret)
    assert (refused.status_code, refused.json()["code"]) == (403, "credentials_refused")


def test_a_users_token_acts_for_that_user_until_it_is_revoked(desk: Client) -> None:
    doctor = get_user_model().objects.create_user("doctor")
    made = make(desk, "report-program", doctor.pk)
    secret = secret_of(made)
    assert f'Authorization: Bearer <span id="secret">{secret}' in made
    token = ApiToken.objects.get()
    assert (token.kind, token.lane, token.user) == ("user", "", doctor)
    assert list_requests(secret).status_code == 200
    assert claim(secret).status_code == 403
    desk.post(f"/tokens/{token.pk}/revoke/")
    assert list_requests(secret).status_code == 403


def test_a_token_is_listed_with_its_use_and_its_end(desk: Client) -> None:
    secret = secret_of(make(desk, "lab-pc"))
    assert "never" in desk.get("/tokens/").content.decode()
    claim(secret)
    shown = desk.get("/tokens/").content.decode()
    assert "never" not in shown
    assert "Revoke “lab-pc”" in shown
    token = ApiToken.objects.get()
    desk.post(f"/tokens/{token.pk}/revoke/")
    desk.get("/tokens/")  # shows the message, which names the token
    shown = desk.get("/tokens/").content.decode()
    assert '<span class="state cancelled">revoked</span>' in shown
    assert f"/tokens/{token.pk}/revoke/" not in shown


def test_revoking_twice_keeps_the_first_time(desk: Client) -> None:
    token = tokens.create(name="lab-pc", kind="worker", lane="lab")[0]
    desk.post(f"/tokens/{token.pk}/revoke/")
    first = ApiToken.objects.get().revoked_at
    assert desk.post(f"/tokens/{token.pk}/revoke/").status_code == 302
    assert ApiToken.objects.get().revoked_at == first is not None


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "1 to 150 printable characters without a colon"),
        ("   ", "1 to 150 printable characters without a colon"),
        ("lab:pc", "1 to 150 printable characters without a colon"),
        ("lab\x00pc", "1 to 150 printable characters without a colon"),
        ("lab\npc", "1 to 150 printable characters without a colon"),
        ("x" * 151, "1 to 150 printable characters without a colon"),
        ("taken", "A live token is already named 'taken'; revoke it first."),
        (" taken ", "A live token is already named 'taken'; revoke it first."),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_in_a_sentence(
    desk: Client, name: str, sentence: str
) -> None:
    tokens.create(name="taken", kind="worker", lane="lab")
    shown = make(desk, name, "cloud")
    assert sentence in sentence_of(shown)
    assert "mri_" not in shown
    assert '<option value="cloud" selected>' in shown
    assert ApiToken.objects.count() == 1


@pytest.mark.parametrize(("name", "word"), [("lab:pc", "콜론"), ("taken", "이미")])
def test_the_refusal_is_told_in_the_language_of_the_page(
    desk: Client, name: str, word: str
) -> None:
    tokens.create(name="taken", kind="worker", lane="lab")
    values = {"name": name, "owner": "lab"}
    answer = desk.post("/tokens/", values, headers={"accept-language": "ko"})
    assert word in sentence_of(answer.content.decode())


def test_the_name_of_a_revoked_token_can_be_used_again(desk: Client) -> None:
    old = secret_of(make(desk, "lab-pc"))
    desk.post(f"/tokens/{ApiToken.objects.get().pk}/revoke/")
    desk.get("/tokens/")
    new = secret_of(make(desk, "lab-pc"))
    assert (claim(old).status_code, claim(new).status_code) == (403, 204)


def test_a_refused_name_stays_in_the_form_and_a_made_one_does_not(desk: Client) -> None:
    assert 'name="name" value="lab:pc"' in make(desk, "lab:pc")
    assert 'name="name" value=""' in make(desk, "lab-pc")


def test_hostile_names_are_shown_as_text(desk: Client) -> None:
    evil = "<script>alert(1)</script>"
    shown = make(desk, evil) + make(desk, evil)
    assert "<script>alert" not in shown
    assert shown.count("&lt;script&gt;alert") >= 6


@pytest.mark.parametrize(
    "owner",
    ["", "gpu", "lab\x00", "<script>", "-1", "0", "1.5", "²", "٣", "9" * 30, "9" * 5000, "user"],
)
def test_an_owner_that_there_is_not_is_refused(desk: Client, owner: str) -> None:
    shown = make(desk, owner=owner)
    assert "user" in sentence_of(shown)
    assert "<script>" not in shown
    assert not ApiToken.objects.exists()


def test_nobody_gets_the_rights_of_a_superuser_by_a_token(desk: Client, chief: Any) -> None:
    assert "chief" not in desk.get("/tokens/").content.decode()
    assert "mri_" not in make(desk, owner=chief.pk)
    assert not ApiToken.objects.exists()


def test_a_superuser_may_make_a_token_for_one(client: Client, chief: Any) -> None:
    client.force_login(chief)
    secret_of(make(client, owner=chief.pk))
    assert ApiToken.objects.get().user == chief


def test_who_may_not_sign_in_any_more_gets_no_token(desk: Client) -> None:
    gone = get_user_model().objects.create_user("gone", is_active=False)
    assert "gone" not in desk.get("/tokens/").content.decode()
    make(desk, owner=gone.pk)
    assert not ApiToken.objects.exists()


def test_revoking_needs_a_post_and_a_token_that_exists(desk: Client) -> None:
    token = tokens.create(name="lab-pc", kind="worker", lane="lab")[0]
    assert desk.get(f"/tokens/{token.pk}/revoke/").status_code == 405
    assert ApiToken.objects.get().is_live
    for number in (token.pk + 1, 10**30):
        assert desk.post(f"/tokens/{number}/revoke/").status_code == 404
    assert desk.put("/tokens/").status_code == 405


def test_making_and_revoking_need_the_token_of_the_page(operator: Any) -> None:
    desk = Client(enforce_csrf_checks=True)
    desk.force_login(operator)
    token = tokens.create(name="kept-pc", kind="worker", lane="lab")[0]
    values = {"name": "lab-pc", "owner": "lab"}
    assert desk.post("/tokens/", values).status_code == 403
    assert desk.post(f"/tokens/{token.pk}/revoke/").status_code == 403
    assert ApiToken.objects.live().get() == token
    shown = desk.get("/tokens/").content.decode()
    proof = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', shown)[-1]
    made = desk.post("/tokens/", {**values, "csrfmiddlewaretoken": proof})
    secret_of(made.content.decode())
    desk.post(f"/tokens/{token.pk}/revoke/", {"csrfmiddlewaretoken": proof})
    assert ApiToken.objects.live().get().name == "lab-pc"

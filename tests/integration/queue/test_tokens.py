from __future__ import annotations

import base64
import io
import json
import sqlite3
import time
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.db import connection

from django_queue_app import tokens
from django_queue_app.errors import InvalidRequest, NameTaken
from django_queue_app.models import ApiToken
from tests.support.counted_statements import counted

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def make(name: str = "lab-pc") -> tuple[ApiToken, str]:
    return tokens.create(name=name, kind="worker", lane="lab", now=NOW)


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("segmentation_token", *arguments, stdout=out, stderr=io.StringIO())
    return out.getvalue().strip()


def test_only_a_digest_is_stored() -> None:
    token, secret = make()
    assert tokens.authenticate(secret) == token
    columns = ApiToken.objects.values().get()
    assert secret not in str(columns)


def test_a_wrong_or_revoked_secret_is_nobody() -> None:
    token, secret = make()
    assert tokens.authenticate(secret + "x") is None
    assert tokens.authenticate("") is None
    assert tokens.authenticate("\ud800") is None
    assert tokens.revoke(token)
    assert not tokens.revoke(token)
    assert tokens.authenticate(secret) is None


def test_bearer_and_basic_prove_the_same() -> None:
    token, secret = make("연구실")
    basic = base64.b64encode(f"연구실:{secret}".encode()).decode()
    assert tokens.authenticate_header(f"Bearer {secret}") == token
    assert tokens.authenticate_header(f"bearer  {secret} ") == token
    assert tokens.authenticate_header(f"Basic {basic}") == token


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Basic !!!", "Basic bm9jb2xvbg==", "Basic /w==", "Digest x", "Bearer nope"],
)
def test_headers_that_prove_nothing_are_nobody(header: str) -> None:
    make()
    assert tokens.authenticate_header(header) is None


def test_basic_needs_the_tokens_own_name() -> None:
    _, secret = make()
    wrong = base64.b64encode(f"other:{secret}".encode()).decode()
    assert tokens.authenticate_header(f"Basic {wrong}") is None


def test_a_name_is_unique_among_live_tokens_only() -> None:
    token, _ = make()
    with pytest.raises(NameTaken):
        make()
    tokens.revoke(token)
    assert make()[0].pk != token.pk


def test_the_time_of_use_is_noted_once_a_minute() -> None:
    token, secret = make()
    for seconds, expected in [(0, 0), (30, 0), (60, 60)]:
        tokens.authenticate(secret, now=NOW + timedelta(seconds=seconds))
        token.refresh_from_db()
        assert token.last_used_at == NOW + timedelta(seconds=expected)


def test_a_burst_of_calls_notes_the_use_once() -> None:
    _, secret = make()
    stale = [ApiToken.objects.get() for _ in range(5)]  # all have read before anybody wrote
    with counted() as seen:
        for token in stale:
            tokens.note_use(token, NOW)
    assert len(seen) == 1
    assert ApiToken.objects.get().last_used_at == NOW
    assert tokens.authenticate(secret, now=NOW) is not None


def test_another_process_that_shares_no_cache_does_not_write_again() -> None:
    make()
    stale = ApiToken.objects.get()
    tokens.note_use(ApiToken.objects.get(), NOW)
    cache.clear()
    tokens.note_use(stale, NOW + timedelta(seconds=59))
    assert ApiToken.objects.get().last_used_at == NOW


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "sqlite", reason="only SQLite has a single writer")
def test_a_call_does_not_wait_for_the_writer_to_note_its_use() -> None:
    token, secret = make()
    with sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None) as writer:
        writer.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        assert tokens.authenticate(secret, now=NOW) == token
        assert time.monotonic() - began < 10  # a write waits for 20 s
        writer.execute("ROLLBACK")
    writer.close()
    token.refresh_from_db()
    assert token.last_used_at is None
    tokens.authenticate(secret, now=NOW)
    token.refresh_from_db()
    assert token.last_used_at == NOW
    with connection.cursor() as cursor:  # the next write that matters waits again
        cursor.execute("PRAGMA busy_timeout")
        assert cursor.fetchone() == (20_000,)


def test_the_token_of_a_user_who_may_not_sign_in_is_nobody() -> None:
    user = get_user_model().objects.create_user("kim")
    _, secret = tokens.create(name="script", kind="user", user=user)
    assert tokens.authenticate(secret) is not None
    user.is_active = False
    user.save()
    assert tokens.authenticate(secret) is None


@pytest.mark.parametrize(
    ("name", "kind", "lane"),
    [
        ("a:b", "worker", "lab"),
        ("", "worker", "lab"),
        ("a\nb", "worker", "lab"),
        ("x", "worker", ""),
        ("x", "worker", "garage"),
        ("x", "user", ""),
        ("x", "robot", "lab"),
    ],
)
def test_parts_that_do_not_fit_are_refused(name: str, kind: str, lane: str) -> None:
    with pytest.raises(InvalidRequest):
        tokens.create(name=name, kind=kind, lane=lane)


# --- the command
def test_create_prints_the_secret_alone_once() -> None:
    secret = run("create", "lab-pc", "--lane", "lab")
    token = tokens.authenticate(secret)
    assert token is not None
    assert (token.name, token.kind, token.lane) == ("lab-pc", "worker", "lab")
    assert secret not in run("list")


def test_create_for_a_program_of_a_user() -> None:
    get_user_model().objects.create_user("kim")
    answer = json.loads(run("create", "script", "--kind", "user", "--user", "kim", "--json"))
    token = tokens.authenticate(answer["secret"])
    assert token is not None
    assert token.user is not None
    assert token.user.get_username() == "kim"


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "x"),
        ("create", "x", "--kind", "user"),
        ("create", "x", "--kind", "user", "--user", "nobody"),
        ("revoke", "nothing"),
    ],
)
def test_mistakes_end_with_a_sentence(arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    assert str(caught.value)


def test_replace_revokes_the_old_one() -> None:
    old = run("create", "lab-pc", "--lane", "lab")
    with pytest.raises(CommandError):
        run("create", "lab-pc", "--lane", "lab")
    new = run("create", "lab-pc", "--lane", "lab", "--replace")
    assert tokens.authenticate(old) is None
    assert tokens.authenticate(new) is not None


def test_list_and_revoke() -> None:
    assert "no tokens" in run("list")
    secret = run("create", "lab-pc", "--lane", "lab")
    rows = json.loads(run("list", "--json"))
    assert [row["name"] for row in rows] == ["lab-pc"]
    run("revoke", "lab-pc")
    assert tokens.authenticate(secret) is None
    assert "revoked" in run("list")

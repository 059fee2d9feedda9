"""Headers of the API as values."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import RequestFactory

from django_queue_app.api import headers
from django_queue_app.api.errors import BadHeader, preferred_language
from django_queue_app.api.headers import ByteRange, Prefer

LEASE = "6f1c2d3e-4a5b-4c6d-8e7f-0a1b2c3d4e5f"
ETAG = '"abc"'


def get(**given: str) -> Any:
    return RequestFactory().get("/", headers={k.replace("_", "-"): v for k, v in given.items()})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", Prefer()),
        ("respond-async", Prefer(is_async=True)),
        ("wait=20", Prefer(wait_s=20)),
        ("respond-async, wait=10", Prefer(is_async=True, wait_s=10)),
        ("Respond-Async; WAIT=10", Prefer(is_async=True, wait_s=10)),
        ("wait=1, wait=2", Prefer(wait_s=1)),
        ('wait="7"', Prefer(wait_s=7)),
        ("wait=-1", Prefer()),
        ("wait=nan", Prefer()),
        ("wait=1e9", Prefer()),
        ("wait=٣", Prefer()),
        ("wait=999999999", Prefer(wait_s=headers.LONGEST_WAIT_S)),
        ("return=minimal, foo", Prefer()),
    ],
)
def test_prefer_is_read_and_what_is_not_understood_ignored(value: str, expected: Prefer) -> None:
    assert headers.read_prefer(get(Prefer=value)) == expected


def test_a_preference_says_what_was_applied() -> None:
    assert Prefer(is_async=True, wait_s=90).capped(25).applied == "wait=25"
    assert Prefer(is_async=True).capped(25).applied == "respond-async"
    assert Prefer().applied == ""


@pytest.mark.parametrize(
    "value", [f'"{LEASE}"', LEASE, LEASE.upper(), f' "{LEASE}" ', LEASE.replace("-", "")]
)
def test_a_lease_is_read_with_and_without_quotes(value: str) -> None:
    assert str(headers.read_lease(get(If_Match=value))) == LEASE


@pytest.mark.parametrize("value", ["", "*", '"x"', "{" + LEASE + "}", f'W/"{LEASE}"', "é"])
def test_a_lease_that_is_no_uuid_is_one_that_nobody_has(value: str) -> None:
    request = get(If_Match=value)
    assert headers.read_lease(request) not in {None, headers.read_lease(request)}
    with pytest.raises(BadHeader):
        headers.read_idempotency_key(get(Idempotency_Key=value))


def test_a_missing_lease_is_none_or_refused() -> None:
    assert headers.read_lease(get()) is None
    with pytest.raises(BadHeader):
        headers.require_lease(get())
    with pytest.raises(BadHeader):
        headers.read_idempotency_key(get())


EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_content_digest_survives_its_round_trip() -> None:
    value = headers.content_digest(EMPTY_SHA256)
    assert value == "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"
    request = get(Content_Digest=f"sha-512=:AAAA:, {value}")
    assert headers.read_content_digest(request) == EMPTY_SHA256


@pytest.mark.parametrize(
    "value", ["", "sha-256", "sha-256=", "sha-256=:", "sha-256=::", "sha-256=:!!:", "md5=:AAAA:"]
)
def test_a_content_digest_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(BadHeader):
        headers.read_content_digest(get(Content_Digest=value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", None),
        ("bytes=0-3", ByteRange(start=0, stop=4)),
        ("bytes=4-", ByteRange(start=4, stop=10)),
        ("bytes=-3", ByteRange(start=7, stop=10)),
        ("bytes=-30", ByteRange(start=0, stop=10)),
        ("bytes=8-100", ByteRange(start=8, stop=10)),
        ("bytes=10-", ByteRange(start=10, stop=10)),
        ("bytes=-0", ByteRange(start=10, stop=10)),
        ("bytes=" + "9" * 400 + "-", ByteRange(start=10, stop=10)),
        ("bytes=5-2", None),
        ("bytes=0-1,3-4", None),
        ("bytes=-", None),
        ("lines=0-3", None),
        ("bytes=a-b", None),
    ],
)
def test_a_range_is_read_as_the_standard_says(value: str, expected: ByteRange | None) -> None:
    assert headers.read_range(get(Range=value), size=10, etag=ETAG) == expected


def test_a_range_of_another_version_is_ignored() -> None:
    request = get(Range="bytes=0-3", If_Range='"old"')
    assert headers.read_range(request, size=10, etag=ETAG) is None
    request = get(Range="bytes=0-3", If_Range=ETAG)
    assert headers.read_range(request, size=10, etag=ETAG) == ByteRange(start=0, stop=4)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", False), (ETAG, True), (f'"x", W/{ETAG}', True), ("*", True), ('"x"', False)],
)
def test_an_etag_that_the_caller_has_is_recognised(value: str, expected: bool) -> None:
    request = get(If_None_Match=value) if value else get()
    assert headers.is_unchanged(request, ETAG) is expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "en"),
        ("ko", "ko"),
        ("ko-KR,ko;q=0.9,en-US;q=0.8", "ko"),
        ("en-US,en;q=0.9,ko;q=0.8", "en"),
        ("en,ko", "en"),
        ("ko,en", "ko"),
        ("de", "en"),
        ("ko;q=0", "en"),
        ("ko;q=x, en;q=0.1", "en"),
        ("kok", "en"),
    ],
)
def test_korean_is_spoken_to_who_prefers_it(accept: str, expected: str) -> None:
    assert preferred_language(accept) == expected

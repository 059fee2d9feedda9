"""Loops and guessing are answered 429 with Retry-After; what works normally never meets a limit."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from django_queue_app.throttle import Limit

API = "/api/mri/segmentation"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def a_limit(most: int, clock: Clock) -> Limit:
    return Limit(name="test", setting="NO_SUCH_SETTING", default=most, window_s=60, clock=clock)


def test_a_window_lets_so_many_through_and_the_next_one_again() -> None:
    clock = Clock()
    limit = a_limit(3, clock)
    assert [limit.count("a") for _ in range(3)] == [0, 0, 0]
    assert limit.count("b") == 0
    clock.now = 1_000_019.0
    assert limit.count("a") == pytest.approx(1.0)  # windows begin at whole minutes
    clock.now = 1_000_020.0
    assert limit.count("a") == 0


def test_zero_is_no_limit() -> None:
    limit = a_limit(0, Clock())
    assert {limit.count("a") for _ in range(50)} == {0.0}
    assert limit.is_spent("a") == 0


def test_asking_does_not_count() -> None:
    limit = a_limit(1, Clock())
    assert [limit.is_spent("a") for _ in range(3)] == [0, 0, 0]
    limit.count("a")
    assert limit.is_spent("a") > 0


def test_a_users_and_a_workers_token_have_limits_of_their_own(
    client: Client, site: Any, settings: Any
) -> None:
    settings.SEGMENTATION_LIMIT_USER_CALLS = 2
    settings.SEGMENTATION_LIMIT_WORKER_CALLS = 3
    for _ in range(2):
        assert client.get(f"{API}/series/", headers=site.as_user()).status_code == 200
    answer = client.get(f"{API}/series/", headers=site.as_user())
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many")
    assert 1 <= int(answer["Retry-After"]) <= 60
    pending = f"{API}/pending-requests/"
    answers = [client.get(pending, headers=site.as_worker()).status_code for _ in range(4)]
    assert answers == [200, 200, 200, 429]


def test_a_session_and_a_stranger_have_limits_too(client: Client, site: Any, settings: Any) -> None:
    settings.SEGMENTATION_LIMIT_USER_CALLS = 2
    settings.SEGMENTATION_LIMIT_ANONYMOUS_CALLS = 2
    health = f"{API}/health/"
    assert [client.get(health).status_code for _ in range(3)] == [200, 200, 429]
    client.force_login(site.user)
    assert [client.get(health).status_code for _ in range(3)] == [200, 200, 429]
    page = client.get("/")
    assert page.status_code == 429
    assert page["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("form", ["/login/", "/admin/login/"])
def test_who_guesses_a_password_is_stopped_even_when_right(
    client: Client, site: Any, settings: Any, form: str
) -> None:
    settings.SEGMENTATION_LIMIT_LOGIN_FAILURES = 3
    site.user.set_password("right one")
    site.user.is_staff = True
    site.user.save()
    for _ in range(3):
        assert client.post(form, {"username": "doctor", "password": "x"}).status_code == 200
    right = {"username": "doctor", "password": "right one"}
    answer = client.post(form, right)
    assert answer.status_code == 429
    assert int(answer["Retry-After"]) >= 1
    # Nobody else is locked out by it: another name here, and this name from elsewhere.
    assert client.post(form, {"username": "nurse", "password": "x"}).status_code == 200
    assert client.post(form, right, REMOTE_ADDR="10.0.0.9").status_code == 302


def test_who_tries_many_names_is_stopped_as_well(client: Client, db: None, settings: Any) -> None:
    settings.SEGMENTATION_LIMIT_LOGIN_FAILURES_OF_ADDRESS = 4
    tries = [client.post("/login/", {"username": f"n{n}", "password": "x"}) for n in range(5)]
    assert [one.status_code for one in tries] == [200] * 4 + [429]

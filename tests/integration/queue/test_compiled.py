"""What the compiled statements answer is what the ORM would, at few statements a call."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import models

from django_queue_app import statements, tokens
from django_queue_app.models import ApiToken, Attempt, Event, SegmentationRequest
from tests.support.counted_statements import counted
from tests.support.queue_driver import Queue


def columns(instance: models.Model) -> dict[str, Any]:
    return {one.attname: getattr(instance, one.attname) for one in instance._meta.concrete_fields}


@pytest.mark.parametrize("is_locked", [False, True])
def test_a_run_with_its_parts_is_read_as_the_orm_reads_it(queue: Queue, is_locked: bool) -> None:
    queue.file(model="brain")
    job = queue.take(queue.token(), models=("brain",))
    run = statements.run_of(job.lease_id, job.request_id, is_locked=is_locked)
    assert run is not None
    assert columns(run) == columns(Attempt.objects.get())
    assert columns(run.request) == columns(SegmentationRequest.objects.get())
    assert columns(run.token) == columns(ApiToken.objects.get())


def test_each_call_is_answered_for_its_own_values(queue: Queue) -> None:
    queue.file(), queue.file()
    first, second = queue.take(queue.token()), queue.take(queue.token())
    for job in (first, second, first):
        run = statements.run_of(job.lease_id, job.request_id)
        assert run is not None
        assert run.lease_id == job.lease_id
    assert statements.run_of(first.lease_id, second.request_id) is None
    assert statements.run_of(uuid.uuid4(), first.request_id) is None


def test_a_users_token_brings_its_user_and_a_workers_none(queue: Queue) -> None:
    user = get_user_model().objects.create_user("kim", email="kim@example.org")
    _, secret = tokens.create(name="script", kind="user", user=user)
    token = statements.live_token(tokens.digest_of(secret))
    assert token is not None
    assert token.user is not None
    assert columns(token.user) == columns(get_user_model().objects.get())
    worker = statements.live_token(queue.token().digest)
    assert worker is not None
    assert worker.user is None


def test_workers_of_different_models_get_their_own(queue: Queue) -> None:
    wanted = [queue.file(model=name).pk for name in ("a", "b", "")]
    assert queue.take(queue.token(), models=("b", "c")).request_id == wanted[1]
    assert queue.take(queue.token(), models=("c",)).request_id == wanted[2]
    assert queue.claim(queue.token(), models=("b", "c", "d")) is None
    assert queue.take(queue.token(), models=("a",)).request_id == wanted[0]


def test_what_a_change_wrote_is_what_its_request_says(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    job.fail()
    queue.pass_time(60)
    queue.take(queue.token()).complete()
    assert queue.read(job.request_id).result is not None
    told = [(one.from_status, one.to_status) for one in Event.objects.order_by("id")]
    assert told == [
        ("", "pending"),
        ("pending", "processing"),
        ("processing", "pending"),
        ("pending", "processing"),
        ("processing", "completed"),
    ]


def test_an_empty_poll_is_one_statement(queue: Queue) -> None:
    token = queue.token()
    queue.claim(token)
    with counted() as seen:
        assert queue.claim(token) is None
    assert len(seen) == 1


def test_a_claim_and_a_completion_are_few_statements(queue: Queue) -> None:
    queue.file()
    token = queue.token()
    queue.claim(token)
    queue.file()
    with counted() as claiming:
        job = queue.take(token)
    assert len(claiming) <= 5  # look, take, read, run, event
    with counted() as completing:
        assert job.complete() == "accepted"
    assert len(completing) <= 5  # run, its files, its end, the change, event

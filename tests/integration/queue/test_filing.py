from __future__ import annotations

import logging
import uuid
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import IntegrityError, transaction

from django_queue_app import services
from django_queue_app.errors import InvalidRequest, RequestNotFound, WrongState
from django_queue_app.models import SegmentationRequest, fingerprint_of
from tests.support.queue_driver import Queue, make_series_id

A, B, C = (make_series_id(number) for number in (0xA, 0xB, 0xC))


def test_a_request_is_pending_and_leaves_an_event(queue: Queue) -> None:
    request = queue.file(main_series_id=A, series_ids=[A, B])
    assert request.status == "pending"
    event = request.events.get()
    assert (event.from_status, event.to_status, event.reason) == ("", "pending", "filed")
    assert (event.actor, event.at) == ("doctor", queue.now)


def test_the_main_series_is_put_in_front_if_it_is_missing(queue: Queue) -> None:
    assert queue.file(main_series_id=A, series_ids=[B, C]).series_ids == [A, B, C]
    assert queue.file(main_series_id=C, series_ids=[]).series_ids == [C]


def test_the_order_of_the_series_is_kept(queue: Queue) -> None:
    assert queue.file(main_series_id=B, series_ids=[C, B, A]).series_ids == [C, B, A]


def test_a_series_order_that_is_to_be_found_out_is_kept_and_tried_again(queue: Queue) -> None:
    request = queue.file(main_series_id=B, series_ids=[C, B, A], order="auto")
    assert (request.series_ids, request.order) == ([C, B, A], "auto")
    services.cancel(request_id=request.pk, actor="doctor")
    assert services.retry(request_id=request.pk, actor="doctor").order == "auto"
    with pytest.raises(InvalidRequest):
        queue.file(main_series_id=A, order="alphabetical")


def test_the_lane_is_logged_in_one_plain_line(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "django_queue_app"):
        request = queue.file(lane="cloud")
    assert f"request {request.pk} routed to the cloud lane" in caplog.messages


def test_the_same_again_returns_the_active_one(queue: Queue) -> None:
    first = queue.filed(main_series_id=A, series_ids=[A, B])
    again = queue.filed(main_series_id=A, series_ids=[A, B])
    assert not first.is_deduplicated
    assert again.is_deduplicated
    assert again.request.pk == first.request.pk


def test_the_same_while_processing_returns_that_one(queue: Queue) -> None:
    first = queue.file(main_series_id=A)
    queue.take(queue.token())
    assert queue.filed(main_series_id=A).request.pk == first.pk


@pytest.mark.parametrize(
    "changed",
    [
        {"series_ids": [B, A]},
        {"order": "auto"},
        {"model": "other"},
        {"main_series_id": B},
        {"is_forced": True},
    ],
)
def test_another_order_model_main_series_or_force_is_another_request(
    queue: Queue, changed: dict[str, Any]
) -> None:
    values = {"main_series_id": A, "series_ids": [A, B]}
    queue.file(**values)
    assert not queue.filed(**{**values, **changed}).is_deduplicated


def test_forced_ones_do_not_collide_and_a_plain_one_joins_the_newest(queue: Queue) -> None:
    queue.file(main_series_id=A, is_forced=True)
    queue.pass_time(1)
    second = queue.file(main_series_id=A, is_forced=True)
    assert queue.filed(main_series_id=A).request.pk == second.pk


def test_a_finished_one_does_not_keep_a_new_one_out(queue: Queue) -> None:
    old = queue.file(main_series_id=A)
    services.cancel(request_id=old.pk, actor="doctor", now=queue.now)
    assert not queue.filed(main_series_id=A).is_deduplicated


def test_the_database_itself_refuses_a_second_active_one(queue: Queue) -> None:
    request = queue.file(main_series_id=A)
    twin = SegmentationRequest(
        main_series_id=A,
        series_ids=[A],
        lane="lab",
        fingerprint=fingerprint_of(A, [A], ""),
    )
    assert twin.fingerprint == request.fingerprint
    with pytest.raises(IntegrityError), transaction.atomic():
        twin.save()


@pytest.mark.parametrize(
    "changed",
    [
        {"main_series_id": "../../etc/passwd"},
        {"main_series_id": A.upper()},
        {"main_series_id": A, "series_ids": [A, "x"]},
        {"main_series_id": A, "series_ids": [A + "\n"]},
        {"series_ids": [make_series_id(number) for number in range(64)]},
        {"lane": "garage"},
        {"model": "../model"},
        {"model": "x" * 101},
        {"model": "a\x00b"},
        {"priority": 101},
        {"priority": -101},
    ],
)
def test_values_that_cannot_be_used_are_refused(queue: Queue, changed: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        queue.file(**changed)
    assert not SegmentationRequest.objects.exists()


def test_the_sites_default_model_is_used_when_none_is_named(queue: Queue, settings: Any) -> None:
    settings.DEFAULT_MODEL = "demo_brain_tumor"
    assert queue.file().model == "demo_brain_tumor"


def test_who_asked_is_kept(queue: Queue) -> None:
    user = get_user_model().objects.create_user("kim")
    assert queue.file(user=user, requested_by="kim").user == user


@pytest.mark.parametrize("state", ["pending", "processing"])
def test_cancel_ends_a_waiting_or_running_request(queue: Queue, state: str) -> None:
    request = queue.file()
    if state == "processing":
        queue.take(queue.token())
    services.cancel(request_id=request.pk, actor="doctor", now=queue.now)
    request = queue.read(request.pk)
    assert (request.status, request.lease_id, request.finished_at) == ("cancelled", None, queue.now)
    assert request.events.order_by("id").last().from_status == state


def test_cancel_of_a_finished_request_is_a_wrong_state(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    job.complete()
    with pytest.raises(WrongState):
        services.cancel(request_id=job.request_id, actor="doctor")
    with pytest.raises(RequestNotFound):
        services.cancel(request_id=uuid.uuid4(), actor="doctor")


def test_retry_files_a_new_request_linked_to_the_old_one(queue: Queue) -> None:
    old = queue.file(main_series_id=A, series_ids=[B, A], model="m", priority=7)
    services.cancel(request_id=old.pk, actor="doctor", now=queue.now)
    new = services.retry(request_id=old.pk, actor="nurse", now=queue.now)
    assert new.pk != old.pk
    assert new.retry_of == old
    assert (new.series_ids, new.model, new.priority) == ([B, A], "m", 7)
    assert queue.read(old.pk).status == "cancelled"
    assert services.retry(request_id=old.pk, actor="nurse", now=queue.now).pk == new.pk


def test_retry_of_what_is_not_over_or_succeeded_is_a_wrong_state(queue: Queue) -> None:
    request = queue.file()
    with pytest.raises(WrongState):
        services.retry(request_id=request.pk, actor="doctor")
    queue.take(queue.token()).complete()
    with pytest.raises(WrongState):
        services.retry(request_id=request.pk, actor="doctor")
    with pytest.raises(RequestNotFound):
        services.retry(request_id=uuid.uuid4(), actor="doctor")


def test_priority_changes_only_while_waiting(queue: Queue) -> None:
    request = queue.file()
    services.set_priority(request_id=request.pk, priority=50, actor="admin", now=queue.now)
    assert queue.read(request.pk).priority == 50
    assert request.events.order_by("id").last().detail == "0 -> 50"
    queue.take(queue.token())
    with pytest.raises(WrongState):
        services.set_priority(request_id=request.pk, priority=1, actor="admin")


def test_saved_to_pacs_is_noted_once_and_only_with_a_result(queue: Queue) -> None:
    request = queue.file()
    with pytest.raises(WrongState):
        services.mark_saved_to_pacs(request_id=request.pk, seg_instance_id="s")
    queue.take(queue.token()).complete()
    assert services.mark_saved_to_pacs(request_id=request.pk, seg_instance_id="s", now=queue.now)
    assert not services.mark_saved_to_pacs(request_id=request.pk, seg_instance_id="t")
    assert queue.read(request.pk).seg_instance_id == "s"

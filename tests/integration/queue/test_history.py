from __future__ import annotations

import itertools
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from django_queue_app import changes, services
from django_queue_app.errors import HistoryIsPermanent, WrongState
from django_queue_app.models import Event, SegmentationRequest
from django_queue_app.signals import request_changed, request_filed
from django_queue_app.states import Status, is_allowed
from tests.support.queue_driver import Queue

FIELDS: dict[str, dict[str, Any]] = {
    "completed": {"result": {}, "result_lease_id": uuid.UUID(int=5)},
}


def in_state(queue: Queue, status: str) -> SegmentationRequest:
    fields = dict(FIELDS.get(status, {}))
    if status == "processing":
        soon = queue.now + timedelta(seconds=90)
        fields = {"lease_id": uuid.uuid4(), "lease_expires_at": soon, "deadline_at": soon}
    request = queue.file()
    SegmentationRequest.objects.filter(pk=request.pk).update(status=status, **fields)
    return queue.read(request.pk)


@pytest.mark.parametrize(("old", "new"), [*itertools.product(Status.values, repeat=2)])
def test_every_pair_of_states_is_moved_or_refused_by_the_table(
    queue: Queue, old: str, new: str
) -> None:
    request = in_state(queue, old)
    fields = {**changes.WITHOUT_LEASE, **FIELDS.get(new, {})}
    if new == "processing":
        soon = queue.now + timedelta(seconds=90)
        fields = {"lease_id": uuid.uuid4(), "lease_expires_at": soon, "deadline_at": soon}
    move: dict[str, Any] = {"actor": "test", "reason": "test", "now": queue.now, **fields}
    if is_allowed(old, new):
        changes.move(request, Status(new), **move)
        assert queue.read(request.pk).status == new
        event = request.events.order_by("id").last()
        assert (event.from_status, event.to_status) == (old, new)
    else:
        with pytest.raises(WrongState):
            changes.move(request, Status(new), **move)
        assert queue.read(request.pk).status == old
        assert request.events.count() == 1


def test_a_move_loses_against_a_change_it_has_not_seen(queue: Queue) -> None:
    seen = queue.file()
    services.cancel(request_id=seen.pk, actor="doctor", now=queue.now)
    with pytest.raises(WrongState):
        changes.move(
            seen,
            Status.COMPLETED,
            actor="x",
            reason="x",
            now=queue.now,
            **FIELDS["completed"],
        )
    assert queue.read(seen.pk).status == "cancelled"


def test_a_move_loses_against_another_lease_in_the_same_state(queue: Queue) -> None:
    queue.file()
    seen = queue.take(queue.token()).request
    queue.pass_time(91)
    living = queue.take(queue.token())
    with pytest.raises(WrongState):
        changes.move(
            seen, Status.PENDING, actor="x", reason="x", now=queue.now, **changes.WITHOUT_LEASE
        )
    assert living.request.status == "processing"


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        ("processing", {}),
        ("pending", {"lease_id": uuid.UUID(int=1)}),
        ("completed", {}),
        ("failed", {"result_lease_id": uuid.UUID(int=1)}),
        ("pending", {"progress": 1.5}),
        ("pending", {"priority": 999}),
    ],
)
def test_the_database_refuses_what_no_service_would_write(
    queue: Queue, status: str, fields: dict[str, Any]
) -> None:
    request = queue.file()
    with pytest.raises(IntegrityError), transaction.atomic():
        SegmentationRequest.objects.filter(pk=request.pk).update(status=status, **fields)


def test_events_cannot_be_changed_or_deleted(queue: Queue) -> None:
    event = queue.file().events.get()
    event.reason = "nothing to see here"
    for attempt in (
        event.save,
        event.delete,
        Event.objects.all().delete,
        lambda: Event.objects.update(reason="x"),
        lambda: Event.objects.bulk_update([event], ["reason"]),
    ):
        with pytest.raises(HistoryIsPermanent):
            attempt()
    assert Event.objects.get().reason == "filed"


def test_a_whole_life_can_be_read_from_its_events(queue: Queue) -> None:
    queue.file()
    token = queue.token("lab-pc")
    queue.take(token).fail()
    queue.pass_time(5)
    job = queue.take(token)
    job.complete()
    story = job.request.events.order_by("id").values_list(
        "actor", "from_status", "to_status", "reason"
    )
    assert list(story) == [
        ("doctor", "", "pending", "filed"),
        ("worker:lab-pc", "pending", "processing", "claimed"),
        ("worker:lab-pc", "processing", "pending", "out_of_memory"),
        ("worker:lab-pc", "pending", "processing", "claimed"),
        ("worker:lab-pc", "processing", "completed", "completed"),
    ]


def test_listeners_are_told_after_the_commit_only(
    queue: Queue, django_capture_on_commit_callbacks: Any
) -> None:
    heard: list[tuple[str, str]] = []

    def on_filed(*, status: str, **_kwargs: Any) -> None:
        heard.append(("filed", status))

    def on_changed(*, status: str, **_kwargs: Any) -> None:
        heard.append(("changed", status))
        raise RuntimeError("a broken listener breaks nothing")

    request_filed.connect(on_filed)
    request_changed.connect(on_changed)
    try:
        with django_capture_on_commit_callbacks(execute=True):
            queue.file()
            assert heard == []
        assert heard == [("filed", "pending"), ("changed", "pending")]
        with django_capture_on_commit_callbacks(execute=True):
            queue.take(queue.token())
        assert heard[2:] == [("changed", "processing")]
    finally:
        request_filed.disconnect(on_filed)
        request_changed.disconnect(on_changed)

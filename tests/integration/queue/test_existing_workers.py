from __future__ import annotations

from typing import Any

import pytest

from django_queue_app import legacy, services
from django_queue_app.errors import (
    AlreadyClaimed,
    LeaseNotCurrent,
    NotYourJob,
    RequestNotFound,
    WrongState,
)
from django_queue_app.models import Attempt, Worker
from tests.support.queue_driver import RESULT, Queue


def test_the_story_of_one_request(queue: Queue) -> None:
    request = queue.file()
    old = queue.token("old-lab")
    shown = queue.offer(old)
    assert shown is not None
    assert shown.pk == request.pk
    assert queue.read(request.pk).status == "pending"
    started = queue.start(old, request.pk)
    assert (started.status, started.processed_by) == ("processing", "old-lab")
    assert started.lease_expires_in_s(queue.now) == 1800
    queue.pass_time(600)
    assert queue.finish(old, request.pk, seg="seg-7") == "accepted"
    done = queue.read(request.pk)
    assert (done.status, done.result) == ("completed", RESULT)
    assert (done.seg_instance_id, done.is_saved_to_pacs) == ("seg-7", True)
    assert Worker.objects.get().is_legacy


def test_the_sites_default_model_keeps_no_request_from_it(queue: Queue, settings: Any) -> None:
    other = queue.file(model="brats")
    settings.DEFAULT_MODEL = "demo_brain_tumor"
    request = queue.file()
    old = queue.token()
    shown = queue.offer(old)
    assert shown is not None
    assert shown.pk == request.pk != other.pk


def test_a_request_whose_series_are_to_be_sorted_is_not_for_it(queue: Queue) -> None:
    unsorted, plain = queue.file(order="auto", priority=9), queue.file()
    shown = queue.offer(queue.token())
    assert shown is not None
    assert shown.pk == plain.pk != unsorted.pk


# --- the offer
def test_at_most_one_request_is_shown_and_it_stays_the_same(queue: Queue) -> None:
    first = queue.file()
    queue.file()
    old = queue.token()
    for _ in range(2):
        shown = queue.offer(old)
        assert shown is not None
        assert shown.pk == first.pk
        queue.pass_time(25)


def test_an_offer_is_kept_for_its_caller_for_60_seconds(queue: Queue) -> None:
    request = queue.file()
    old, modern, other = queue.token(), queue.token(), queue.token()
    queue.offer(old)
    queue.pass_time(59)
    assert queue.claim(modern) is None
    assert queue.offer(other) is None
    with pytest.raises(AlreadyClaimed):
        queue.start(other, request.pk)
    queue.pass_time(2)
    assert queue.take(modern).request_id == request.pk


def test_reading_the_list_again_does_not_prolong_the_offer(queue: Queue) -> None:
    queue.file()
    onlooker, modern = queue.token(), queue.token()
    for _ in range(2):
        queue.offer(onlooker)
        queue.pass_time(30)
    assert queue.claim(modern) is not None


def test_an_offer_that_ran_out_untaken_may_be_made_again(queue: Queue) -> None:
    request = queue.file()
    old, modern = queue.token(), queue.token()
    queue.offer(old)
    queue.pass_time(61)
    again = queue.offer(old)
    assert again is not None
    assert again.pk == request.pk
    assert queue.claim(modern) is None


def test_two_existing_workers_are_shown_different_requests(queue: Queue) -> None:
    queue.file()
    queue.file()
    shown = [queue.offer(queue.token()) for _ in range(3)]
    assert shown[0] is not None
    assert shown[1] is not None
    assert shown[0].pk != shown[1].pk
    assert shown[2] is None


def test_a_start_after_the_offer_ran_out_still_counts_if_nobody_was_faster(queue: Queue) -> None:
    request = queue.file()
    old = queue.token()
    queue.offer(old)
    queue.pass_time(300)
    assert queue.start(old, request.pk).status == "processing"


def test_requests_for_a_named_model_or_another_lane_are_not_shown(queue: Queue) -> None:
    queue.file(model="glioma")
    elsewhere = queue.file(lane="cloud")
    old = queue.token()
    assert queue.offer(old) is None
    with pytest.raises(NotYourJob):
        queue.start(old, elsewhere.pk)
    with pytest.raises(NotYourJob):
        queue.finish(old, elsewhere.pk)


# --- start
def test_a_start_said_twice_is_harmless(queue: Queue) -> None:
    request = queue.file()
    old = queue.token()
    queue.start(old, request.pk)
    assert queue.start(old, request.pk).attempt_count == 1
    assert Attempt.objects.count() == 1


def test_a_stale_list_gets_a_refusal_when_another_has_it(queue: Queue) -> None:
    request = queue.file()
    old, modern = queue.token(), queue.token()
    job = queue.take(modern)
    with pytest.raises(AlreadyClaimed):
        queue.start(old, request.pk)
    job.complete()
    with pytest.raises(WrongState):
        queue.start(old, request.pk)


def test_a_newer_program_with_the_same_token_is_another_worker(queue: Queue) -> None:
    request = queue.file()
    shared = queue.token()
    job = queue.take(shared)
    with pytest.raises(AlreadyClaimed):
        queue.start(shared, request.pk)
    with pytest.raises(AlreadyClaimed):
        queue.finish(shared, request.pk, is_success=False)
    assert job.request.status == "processing"


def test_an_existing_worker_that_died_is_reaped_after_30_minutes(queue: Queue) -> None:
    request = queue.file()
    old, other = queue.token(), queue.token()
    queue.start(old, request.pk)
    queue.pass_time(1799)
    assert queue.offer(other) is None
    queue.pass_time(2)
    shown = queue.offer(other)
    assert shown is not None
    assert shown.pk == request.pk


def test_what_keeps_killing_an_existing_worker_fails_in_the_end(queue: Queue) -> None:
    request = queue.file()
    old = queue.token()
    for _ in range(3):
        queue.start(old, request.pk)
        queue.pass_time(1801)
    assert queue.offer(old) is None
    assert queue.read(request.pk).status == "failed"


# --- finish
def test_it_cannot_touch_the_live_lease_of_another(queue: Queue) -> None:
    request = queue.file()
    old = queue.token()
    queue.offer(old)
    queue.pass_time(61)
    job = queue.take(queue.token())
    for is_success in (True, False):
        with pytest.raises(AlreadyClaimed):
            queue.finish(old, request.pk, is_success=is_success)
    assert job.request.status == "processing"
    assert job.complete() == "accepted"


@pytest.mark.parametrize("is_success", [True, False])
def test_on_a_completed_request_it_changes_nothing(queue: Queue, is_success: bool) -> None:
    request = queue.file()
    old = queue.token()
    queue.start(old, request.pk)
    queue.finish(old, request.pk, seg="first")
    before = queue.read(request.pk)
    queue.pass_time(5)
    assert queue.finish(old, request.pk, is_success=is_success, seg="second") == "unchanged"
    after = queue.read(request.pk)
    assert (after.seg_instance_id, after.updated_at) == ("first", before.updated_at)
    assert after.events.count() == before.events.count()


def test_on_a_cancelled_request_it_changes_nothing(queue: Queue) -> None:
    request = queue.file()
    old = queue.token()
    queue.start(old, request.pk)
    services.cancel(request_id=request.pk, actor="doctor", now=queue.now)
    assert queue.finish(old, request.pk) == "unchanged"
    assert queue.read(request.pk).status == "cancelled"


def test_on_a_request_that_failed_elsewhere_it_changes_nothing(queue: Queue) -> None:
    request = queue.file()
    queue.take(queue.token()).fail(is_retryable=False)
    for is_success in (True, False):
        assert queue.finish(queue.token(), request.pk, is_success=is_success) == "unchanged"
    assert queue.read(request.pk).status == "failed"


def test_its_own_late_mask_beats_expiry(queue: Queue) -> None:
    request = queue.file()
    old = queue.token()
    for _ in range(3):
        queue.start(old, request.pk)
        queue.pass_time(1801)
    queue.offer(queue.token())
    assert queue.read(request.pk).status == "failed"
    assert queue.finish(old, request.pk) == "accepted"


def test_a_failure_is_another_attempt_until_they_are_used_up(queue: Queue) -> None:
    request = queue.file()
    old = queue.token()
    for left in (2, 1, 0):
        queue.start(old, request.pk)
        assert queue.finish(old, request.pk, is_success=False) == "failed"
        expected = "pending" if left else "failed"
        assert queue.read(request.pk).status == expected
        queue.pass_time(60)
    assert queue.read(request.pk).failure_message == "CUDA out of memory"


def test_a_failure_posted_because_an_answer_was_late_is_stale(queue: Queue) -> None:
    request = queue.file()
    old = queue.token()
    queue.start(old, request.pk)
    queue.finish(old, request.pk, is_success=False)
    assert queue.finish(old, request.pk, is_success=False) == "unchanged"
    assert queue.read(request.pk).attempt_count == 1
    assert queue.finish(old, request.pk) == "accepted"


def test_a_result_whose_start_never_arrived_is_welcome(queue: Queue) -> None:
    request = queue.file()
    old = queue.token()
    queue.offer(old)
    assert queue.finish(old, request.pk) == "accepted"
    assert queue.read(request.pk).attempts.count() == 1


def test_a_failure_whose_start_never_arrived_counts(queue: Queue) -> None:
    request = queue.file()
    old = queue.token()
    queue.offer(old)
    assert queue.finish(old, request.pk, is_success=False) == "failed"
    assert queue.read(request.pk).attempt_count == 1


def test_a_failure_of_what_it_never_had_is_refused(queue: Queue) -> None:
    request = queue.file()
    with pytest.raises(WrongState):
        queue.finish(queue.token(), request.pk, is_success=False)
    assert queue.read(request.pk).status == "pending"


def test_an_unknown_request_is_not_found(queue: Queue) -> None:
    request = queue.file()
    old = queue.token()
    unknown = type(request.pk)(int=0)
    for call in (queue.start, queue.finish):
        with pytest.raises(RequestNotFound):
            call(old, unknown)


# --- beside a modern worker
def test_old_and_new_alternate_over_one_queue(queue: Queue) -> None:
    requests = [queue.file() for _ in range(6)]
    old, modern = queue.token("old"), queue.token("new")
    for _ in range(3):
        shown = queue.offer(old)
        job = queue.take(modern)
        assert shown is not None
        assert shown.pk != job.request_id
        queue.start(old, shown.pk)
        queue.pass_time(20)
        job.beat()
        queue.finish(old, shown.pk)
        job.complete()
    rows = [queue.read(request.pk) for request in requests]
    assert {row.status for row in rows} == {"completed"}
    assert sorted(row.processed_by for row in rows) == ["new"] * 3 + ["old"] * 3


def test_a_modern_worker_superseded_by_an_existing_one_is_told(queue: Queue) -> None:
    request = queue.file()
    old, modern = queue.token(), queue.token()
    queue.start(old, request.pk)
    queue.pass_time(1801)
    job = queue.take(modern)
    queue.pass_time(91)  # the modern worker is gone as well, its lease not reaped yet
    assert queue.finish(old, request.pk) == "accepted"
    assert job.complete() == "superseded"
    with pytest.raises(LeaseNotCurrent):
        job.fail()


# --- /api/inference
def test_the_inference_call_claims_at_once(queue: Queue) -> None:
    first, second = queue.file(), queue.file()
    old = queue.token()
    claimed = legacy.claim_inference(token=old, now=queue.now)
    assert claimed is not None
    assert (claimed.pk, claimed.status) == (first.pk, "processing")
    claimed = legacy.claim_inference(token=old, now=queue.now)
    assert claimed is not None
    assert claimed.pk == second.pk
    assert legacy.claim_inference(token=old, now=queue.now) is None
    assert queue.finish(old, first.pk) == "accepted"

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.contrib.auth import get_user_model

from django_queue_app import services, tokens
from django_queue_app.errors import (
    DeadlinePassed,
    InvalidRequest,
    LeaseNeverIssued,
    LeaseNotCurrent,
    NotYourJob,
    RequestCancelled,
    RequestFinished,
    RequestNotFound,
    WorkerTokenRequired,
)
from django_queue_app.models import Attempt, SegmentationRequest, Worker
from tests.support.queue_driver import Queue


def test_an_empty_queue_gives_nothing(queue: Queue) -> None:
    assert queue.claim(queue.token()) is None


def test_a_claim_holds_the_request_for_a_lease_within_a_deadline(queue: Queue) -> None:
    request = queue.file()
    job = queue.take(queue.token("lab-pc"))
    request = job.request
    assert job.request_id == request.pk
    assert (request.status, request.attempt_count) == ("processing", 1)
    assert (request.processed_by, request.stage) == ("lab-pc", "downloading")
    assert request.lease_expires_in_s(queue.now) == 90
    assert request.deadline_in_s(queue.now) == 1800
    assert queue.claim(queue.token()) is None


def test_the_highest_priority_goes_first_then_the_oldest(queue: Queue) -> None:
    old = queue.file()
    queue.pass_time(1)
    urgent = queue.file(priority=10)
    queue.pass_time(1)
    new = queue.file()
    last = queue.file(priority=-5)
    token = queue.token()
    taken = [queue.take(token).request_id for _ in range(4)]
    assert taken == [urgent.pk, old.pk, new.pk, last.pk]


def test_a_worker_gets_only_its_own_lane(queue: Queue) -> None:
    queue.file(lane="lab")
    assert queue.claim(queue.token(lane="cloud")) is None
    assert queue.claim(queue.token(lane="lab")) is not None


def test_a_named_model_goes_only_to_a_worker_that_offers_it(queue: Queue) -> None:
    named = queue.file(model="glioma")
    token = queue.token()
    assert queue.claim(token, models=("other",)) is None
    assert queue.take(token, models=("other", "glioma")).request_id == named.pk


def test_a_request_without_a_model_goes_to_any_worker(queue: Queue) -> None:
    request = queue.file()
    assert queue.take(queue.token(), models=("other",)).request_id == request.pk


def test_a_users_token_cannot_claim(queue: Queue) -> None:
    user = get_user_model().objects.create_user("kim")
    token, _ = tokens.create(name="kim-script", kind="user", user=user)
    with pytest.raises(WorkerTokenRequired):
        queue.claim(token)


# --- replay
def test_the_same_key_gives_the_same_job_and_counts_no_attempt(queue: Queue) -> None:
    queue.file()
    queue.file()
    token, lease_id = queue.token(), uuid.uuid4()
    first = queue.take(token, lease_id=lease_id)
    queue.pass_time(30)
    again = queue.take(token, lease_id=lease_id)
    assert again.request_id == first.request_id
    assert again.request.attempt_count == 1
    assert Attempt.objects.count() == 1


def test_a_key_of_another_worker_is_not_replayed_to_me(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    with pytest.raises(NotYourJob):
        queue.claim(queue.token(), lease_id=job.lease_id)


def test_a_key_whose_run_is_over_is_refused_not_granted_again(queue: Queue) -> None:
    queue.file()
    token = queue.token()
    job = queue.take(token)
    job.release()
    with pytest.raises(LeaseNotCurrent):
        queue.claim(token, lease_id=job.lease_id)
    finished = queue.take(token)
    finished.complete()
    with pytest.raises(RequestFinished):
        queue.claim(token, lease_id=finished.lease_id)


def test_a_key_that_was_given_nothing_can_be_used_again(queue: Queue) -> None:
    token, lease_id = queue.token(), uuid.uuid4()
    assert queue.claim(token, lease_id=lease_id) is None
    queue.file()
    assert queue.claim(token, lease_id=lease_id) is not None


# --- heartbeat
def test_a_heartbeat_renews_and_tells_how_far_it_is(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    queue.pass_time(60)
    assert job.beat("inferring", 0.25) == 90
    assert job.request.lease_expires_in_s(queue.now) == 90
    assert (job.request.stage, job.request.progress) == ("inferring", 0.25)


def test_no_heartbeat_goes_past_the_deadline(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    for _ in range(59):
        queue.pass_time(30)
        assert 0 < job.beat() <= 90
    assert job.request.lease_expires_at == job.request.deadline_at
    queue.pass_time(30)
    with pytest.raises(DeadlinePassed):
        job.beat()
    queue.claim(queue.token())
    with pytest.raises(LeaseNotCurrent):
        job.beat()


def test_a_late_heartbeat_saves_a_lease_that_nobody_reaped_yet(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    queue.pass_time(300)  # the server was away; nobody claimed
    assert job.beat() == 90
    assert queue.claim(queue.token()) is None


def test_a_heartbeat_of_a_cancelled_or_finished_request_is_gone(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    services.cancel(request_id=job.request_id, actor="doctor", now=queue.now)
    with pytest.raises(RequestCancelled):
        job.beat()
    queue.file()
    job = queue.take(queue.token())
    job.complete()
    with pytest.raises(RequestFinished):
        job.beat()


def test_a_heartbeat_of_a_lost_lease_changes_nothing(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    queue.pass_time(91)
    other = queue.take(queue.token())
    before = other.request
    with pytest.raises(LeaseNotCurrent):
        job.beat("uploading", 1.0)
    assert other.request.stage == before.stage
    assert other.request.lease_expires_at == before.lease_expires_at


def test_a_heartbeat_after_a_release_does_not_bring_the_job_back(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    job.release()
    with pytest.raises(LeaseNotCurrent):
        job.beat()
    assert job.request.status == "pending"


def test_unknown_requests_and_leases_are_told_apart(queue: Queue) -> None:
    request = queue.file()
    who: dict[str, Any] = {"token": queue.token(), "lease_id": uuid.uuid4()}
    with pytest.raises(RequestNotFound):
        services.heartbeat(request_id=uuid.uuid4(), **who)
    with pytest.raises(LeaseNeverIssued):
        services.heartbeat(request_id=request.pk, **who)


def test_another_workers_lease_is_not_mine(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    who: dict[str, Any] = {
        "request_id": job.request_id,
        "lease_id": job.lease_id,
        "token": queue.token(),
    }
    with pytest.raises(NotYourJob):
        services.heartbeat(**who)
    with pytest.raises(NotYourJob):
        services.release(**who)
    with pytest.raises(NotYourJob):
        services.complete(**who, result={}, artifacts={})


@pytest.mark.parametrize(
    ("stage", "progress"),
    [("dreaming", 0.5), ("loading", 1.1), ("loading", -0.1), ("loading", float("nan"))],
)
def test_progress_that_makes_no_sense_is_refused(queue: Queue, stage: str, progress: float) -> None:
    queue.file()
    with pytest.raises(InvalidRequest):
        queue.take(queue.token()).beat(stage, progress)


# --- expiry
def test_a_lease_that_ran_out_is_reaped_by_the_next_claim(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    queue.pass_time(89)
    assert queue.claim(queue.token()) is None
    queue.pass_time(2)
    successor = queue.take(queue.token())
    assert successor.request_id == job.request_id
    assert successor.request.attempt_count == 2
    assert job.attempt.outcome == "expired"
    reasons = list(job.request.events.order_by("id").values_list("reason", flat=True))
    assert reasons == ["filed", "claimed", "lease_expired", "claimed"]


def test_a_claim_of_another_lane_reaps_too(queue: Queue) -> None:
    queue.file(lane="lab")
    job = queue.take(queue.token(lane="lab"))
    queue.pass_time(91)
    assert queue.claim(queue.token(lane="cloud")) is None
    assert job.request.status == "pending"


def test_a_job_that_kills_its_worker_three_times_fails_and_the_others_proceed(
    queue: Queue,
) -> None:
    poison = queue.file(priority=1)
    other = queue.file()
    token = queue.token()
    for _ in range(3):
        assert queue.take(token).request_id == poison.pk
        queue.pass_time(91)
    assert queue.take(token).request_id == other.pk
    poison = queue.read(poison.pk)
    assert (poison.status, poison.attempt_count) == ("failed", 3)
    assert poison.failure_code == "lease_expired"
    assert poison.failure_message


# --- workers
def test_a_worker_is_remembered_as_it_describes_itself(queue: Queue) -> None:
    token = queue.token("lab-pc")
    queue.claim(token, models=("b", "a"))
    worker = Worker.objects.get()
    assert (worker.name, worker.lane, worker.models_offered) == ("lab-pc", "lab", ["a", "b"])
    queue.pass_time(60)
    queue.claim(token, models=("c",))
    worker = Worker.objects.get()
    assert (worker.models_offered, worker.last_seen_at) == (["c"], queue.now)


def test_an_empty_poll_writes_nothing_most_of_the_time(
    queue: Queue, django_assert_max_num_queries: Any
) -> None:
    token = queue.token()
    queue.claim(token)
    queue.pass_time(1)
    with django_assert_max_num_queries(5) as captured:
        queue.claim(token)
    assert not [q for q in captured if not q["sql"].lstrip(" (").startswith("SELECT")]


def test_a_replaced_token_of_the_same_name_is_the_same_worker(queue: Queue) -> None:
    queue.file()
    old = queue.token("lab-pc")
    job = queue.take(old)
    tokens.revoke(old)
    new = queue.token("lab-pc")
    outcome = services.complete(
        request_id=job.request_id, lease_id=job.lease_id, token=new, result={}, artifacts={}
    )
    assert outcome == "accepted"


def test_hostile_names_do_not_break_the_poll(queue: Queue) -> None:
    queue.file()
    info = services.WorkerInfo(name="\x00\ud800x" * 99, device="\x00", models=("\x00", "\ud800"))
    granted = services.claim(token=queue.token(), lease_id=uuid.uuid4(), worker=info, now=queue.now)
    assert granted is not None
    assert SegmentationRequest.objects.get().status == "processing"

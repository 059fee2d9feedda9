from __future__ import annotations

import uuid
from typing import Any

import pytest

from django_queue_app import services
from django_queue_app.errors import (
    ArtifactMissing,
    InvalidRequest,
    LeaseNeverIssued,
    LeaseNotCurrent,
    RequestCancelled,
    RequestFinished,
)
from django_queue_app.models import Artifact
from tests.support.queue_driver import RESULT, Queue

OTHER = {"tumor_detected": False}


def test_the_first_result_is_accepted_and_visible(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token("lab-pc"))
    assert job.complete() == "accepted"
    request = job.request
    assert (request.status, request.result) == ("completed", RESULT)
    assert (request.lease_id, request.progress, request.stage) == (None, 1.0, "")
    assert (request.finished_at, request.processed_by) == (queue.now, "lab-pc")
    assert job.attempt.outcome == "completed"


def test_the_same_again_is_a_replay(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    job.complete()
    before = job.request
    queue.pass_time(60)
    assert job.complete() == "replay"
    assert job.request.finished_at == before.finished_at
    assert job.request.events.count() == 3


def test_another_result_of_the_same_worker_is_superseded(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    job.complete()
    assert job.complete(result=OTHER) == "superseded"
    assert job.request.result == RESULT


def test_the_first_of_two_workers_wins_and_its_result_never_changes(queue: Queue) -> None:
    queue.file()
    slow = queue.take(queue.token())
    queue.pass_time(91)
    fast = queue.take(queue.token())
    assert fast.complete(result=OTHER) == "accepted"
    assert slow.complete() == "superseded"
    assert slow.request.result == OTHER
    assert fast.complete(result=OTHER) == "replay"


def test_a_late_mask_beats_the_one_that_runs_now(queue: Queue) -> None:
    queue.file()
    late = queue.take(queue.token())
    queue.pass_time(91)
    running = queue.take(queue.token())
    assert late.complete() == "accepted"
    assert running.attempt.outcome == "superseded"
    assert late.attempt.outcome == "completed"
    with pytest.raises(RequestFinished):
        running.beat()
    assert running.complete(result=OTHER) == "superseded"
    assert running.request.result == RESULT


def test_a_late_mask_beats_expiry(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    queue.pass_time(91)
    queue.claim(queue.token(lane="cloud"))  # reaps
    assert job.request.status == "pending"
    assert job.complete() == "accepted"
    assert job.request.status == "completed"
    assert queue.claim(queue.token()) is None


def test_a_late_mask_beats_failure(queue: Queue) -> None:
    queue.file()
    token = queue.token()
    jobs = []
    for _ in range(3):
        jobs.append(queue.take(token))
        queue.pass_time(91)
    queue.claim(queue.token(lane="cloud"))
    assert jobs[0].request.status == "failed"
    assert jobs[0].complete() == "accepted"
    request = jobs[0].request
    assert (request.status, request.failure_code, request.failure_message) == ("completed", "", "")


def test_a_mask_after_the_release_of_its_lease_is_still_a_mask(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    job.release()
    assert job.complete() == "accepted"


def test_a_cancelled_request_takes_no_result(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    services.cancel(request_id=job.request_id, actor="doctor", now=queue.now)
    for call in (job.complete, job.upload, job.fail, job.release, job.beat):
        with pytest.raises(RequestCancelled):
            call()
    assert (job.request.status, job.request.result) == ("cancelled", None)


def test_a_lease_that_was_never_issued_completes_nothing(queue: Queue) -> None:
    request = queue.file()
    other = queue.file()
    token = queue.token()
    job = queue.take(token)
    for request_id, lease_id in [(request.pk, uuid.uuid4()), (other.pk, job.lease_id)]:
        with pytest.raises(LeaseNeverIssued):
            services.complete(
                request_id=request_id, lease_id=lease_id, token=token, result={}, artifacts={}
            )


# --- artifacts
def test_a_file_is_new_once_and_the_same_bytes_again_are_not(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    assert job.upload()[1]
    assert not job.upload()[1]
    artifact, is_new = job.upload(digest="cd" * 32)
    assert is_new
    assert artifact.sha256 == "cd" * 32
    assert Artifact.objects.count() == 1


def test_a_result_needs_the_files_it_names_with_their_digests(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    job.upload()
    for artifacts in ({"mask.nii.gz": "ab" * 32}, {"mask.dcm": "cd" * 32}):
        with pytest.raises(ArtifactMissing):
            job.complete(artifacts=artifacts)
    assert job.request.status == "processing"
    assert job.complete(artifacts={"mask.dcm": "ab" * 32}) == "accepted"


def test_files_of_another_lease_do_not_count(queue: Queue) -> None:
    queue.file()
    first = queue.take(queue.token())
    first.upload()
    queue.pass_time(91)
    with pytest.raises(ArtifactMissing):
        queue.take(queue.token()).complete(artifacts={"mask.dcm": "ab" * 32})


def test_only_the_winners_files_are_visible(queue: Queue) -> None:
    queue.file()
    first = queue.take(queue.token())
    first.upload()
    queue.pass_time(91)
    second = queue.take(queue.token())
    second.upload(digest="cd" * 32)
    assert not second.request.visible_artifacts().exists()
    mask = services.FinalisedMask(seg_instance_id="seg", mask_storage_name="final/mask.dcm")
    second.complete(artifacts={"mask.dcm": "cd" * 32}, finalised=mask)
    visible = second.request.visible_artifacts().get()
    assert visible.sha256 == "cd" * 32
    assert visible.served_storage_name == "final/mask.dcm"
    assert second.request.seg_instance_id == "seg"


def test_no_file_replaces_another_once_there_is_a_result(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    job.upload()
    job.complete(artifacts={"mask.dcm": "ab" * 32})
    assert not job.upload()[1]
    with pytest.raises(RequestFinished):
        job.upload(digest="cd" * 32)


@pytest.mark.parametrize(
    ("name", "digest"),
    [("../x", "ab" * 32), ("mask.dcm", "AB" * 32), ("mask.dcm", "ab"), ("evil.exe", "ab" * 32)],
)
def test_only_known_names_and_real_digests_are_taken(queue: Queue, name: str, digest: str) -> None:
    queue.file()
    with pytest.raises(InvalidRequest):
        queue.take(queue.token()).upload(name, digest)


@pytest.mark.parametrize(
    "result", [{"volume": float("nan")}, {"deep": [[[[[[[[[[[[[[[]]]]]]]]]]]]]]]}]
)
def test_a_result_that_cannot_be_stored_is_refused_and_the_job_goes_on(
    queue: Queue, result: dict[str, Any]
) -> None:
    queue.file()
    job = queue.take(queue.token())
    with pytest.raises(InvalidRequest):
        job.complete(result=result)
    assert job.complete() == "accepted"


def test_odd_text_in_a_result_is_stored(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    assert job.complete(result={"warnings": ["\x00 \ud800 종양"]}) == "accepted"
    assert "종양" in job.request.result["warnings"][0]


# --- failure and release
def test_a_retryable_failure_waits_longer_each_time_then_fails(queue: Queue) -> None:
    queue.file()
    token = queue.token()
    for pause in (5, 10):
        queue.take(token).fail()
        queue.pass_time(pause - 1)
        assert queue.claim(token) is None
        queue.pass_time(1)
    job = queue.take(token)
    assert job.request.attempt_count == 3
    job.fail()
    request = job.request
    assert (request.status, request.failure_code) == ("failed", "out_of_memory")
    assert (request.failure_message, request.lease_id) == ("It broke.", None)
    queue.pass_time(3600)
    assert queue.claim(token) is None


def test_a_permanent_failure_ends_at_once(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    job.fail(is_retryable=False, code="mixed_orientation")
    assert (job.request.status, job.request.attempt_count) == ("failed", 1)
    assert job.attempt.failure_code == "mixed_orientation"


def test_a_zombies_failure_or_release_does_not_touch_the_living(queue: Queue) -> None:
    queue.file()
    zombie = queue.take(queue.token())
    queue.pass_time(91)
    living = queue.take(queue.token())
    before = living.request
    for call in (zombie.fail, zombie.release):
        with pytest.raises(LeaseNotCurrent):
            call()
    after = living.request
    assert (after.status, after.lease_id) == ("processing", before.lease_id)
    assert living.complete() == "accepted"


def test_a_failure_after_the_result_changes_nothing(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    job.complete()
    with pytest.raises(LeaseNotCurrent):
        job.fail()
    assert job.request.status == "completed"


def test_a_release_gives_the_request_back_unharmed(queue: Queue) -> None:
    queue.file()
    token = queue.token()
    for _ in range(2):
        job = queue.take(token)
        assert job.request.attempt_count == 1
        job.release()
        assert (job.request.status, job.request.attempt_count) == ("pending", 0)
    with pytest.raises(LeaseNotCurrent):
        job.release()


def test_a_request_that_is_always_released_lets_the_others_go_first(queue: Queue) -> None:
    queue.file(priority=1)
    other = queue.file()
    token = queue.token()
    for _ in range(3):
        queue.take(token).release()
    assert queue.take(token).request_id == other.pk

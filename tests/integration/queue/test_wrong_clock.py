"""The server's clock is set: an hour ahead and back, or only back."""

from __future__ import annotations

import pytest

from django_queue_app import wrong_clock
from django_queue_app.errors import LeaseNotCurrent
from tests.support.queue_driver import Queue

HOUR_S = 3600


def test_a_clock_that_runs_on_is_not_corrected(queue: Queue) -> None:
    queue.file()
    queue.take(queue.token())
    for seconds in (0, 10, HOUR_S):
        queue.pass_time(seconds)
        assert not wrong_clock.correct(queue.now)


def test_a_request_of_the_wrong_hour_can_be_claimed_at_once(queue: Queue) -> None:
    queue.pass_time(HOUR_S)
    queue.file()
    queue.pass_time(-HOUR_S)
    assert queue.claim(queue.token()) is not None
    assert not wrong_clock.correct(queue.now)  # once is enough


def test_a_lease_of_the_wrong_hour_ends_within_a_lease(queue: Queue) -> None:
    queue.file()
    queue.pass_time(HOUR_S)
    queue.take(queue.token())
    queue.pass_time(-HOUR_S)
    other = queue.token()
    assert queue.claim(other) is None  # its worker may be alive
    queue.pass_time(91)
    assert queue.take(other).request.attempt_count == 2


def test_a_living_worker_keeps_its_job_when_the_clock_is_set_back(queue: Queue) -> None:
    queue.file()
    job, other = queue.take(queue.token()), queue.token()
    queue.claim(other)
    queue.pass_time(-HOUR_S)
    for _ in range(10):
        assert job.beat() == 90
        assert queue.claim(other) is None
        queue.pass_time(30)
    assert job.complete() == "accepted"


def test_the_deadline_counts_from_the_right_time_again(queue: Queue) -> None:
    queue.file()
    queue.pass_time(HOUR_S)
    job, other = queue.take(queue.token()), queue.token()
    queue.pass_time(-HOUR_S)
    queue.claim(other)
    for _ in range(59):
        queue.pass_time(30)
        job.beat()
    queue.pass_time(31)
    assert queue.claim(other) is not None
    with pytest.raises(LeaseNotCurrent):
        job.beat()


def test_a_pause_of_the_wrong_hour_is_over(queue: Queue) -> None:
    queue.file()
    queue.pass_time(HOUR_S)
    queue.take(queue.token()).fail()
    queue.pass_time(-HOUR_S)
    assert queue.claim(queue.token()) is not None


def test_an_existing_workers_run_and_offer_are_set_right_too(queue: Queue) -> None:
    running, shown = queue.file(), queue.file()
    queue.pass_time(HOUR_S)
    old, other, modern = queue.token(), queue.token(), queue.token()
    queue.start(old, running.pk)
    queue.offer(other)
    queue.pass_time(-HOUR_S)
    assert queue.take(modern).request_id == shown.pk
    queue.pass_time(1799)
    queue.claim(modern)
    assert queue.read(running.pk).attempt_count == 1
    queue.pass_time(2)
    queue.claim(modern)
    assert queue.read(running.pk).attempt_count == 2


def test_a_clock_set_ahead_costs_a_run_and_no_result(queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    queue.pass_time(HOUR_S)
    successor = queue.take(queue.token())
    assert job.complete() == "accepted"
    assert successor.complete() == "superseded"

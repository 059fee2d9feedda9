"""The services against a small model of what CONTRACT 2.2 and 2.3 promise, in random stories.

`QUEUE_STORIES=2000 pytest tests/integration/queue/test_state_machine.py` looks longer than CI does.
"""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from django_queue_app import services
from django_queue_app.errors import AlreadyClaimed, ServiceError, WrongState
from django_queue_app.models import SegmentationRequest
from tests.support.queue_driver import Job, Queue, make_series_id

STORIES = int(os.environ.get("QUEUE_STORIES", "25"))
LEASE_S, DEADLINE_S, LEGACY_S, ATTEMPTS = 90, 1800, 1800, 3
# Written out again, and not imported: a slip in the table would else be in both places.
ALLOWED = {
    ("", "pending"),
    ("pending", "processing"),
    ("pending", "completed"),
    ("pending", "cancelled"),
    ("processing", "pending"),
    ("processing", "failed"),
    ("processing", "completed"),
    ("processing", "cancelled"),
    ("failed", "completed"),
}


@dataclass
class Known:
    """What the model holds of one request."""

    status: str = "pending"
    result: dict[str, Any] | None = None
    holder: uuid.UUID | None = None
    deadline: Any = None
    attempts: int = 0
    leases: set[uuid.UUID] = field(default_factory=set)


class QueueStory(RuleBasedStateMachine):
    """Front ends, workers and existing workers do as they like; the model says what must come."""

    requests = Bundle("requests")
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue()
        self.known: dict[uuid.UUID, Known] = {}
        self.number = 0

    @initialize()
    def set_up(self) -> None:
        self.tokens = [self.queue.token() for _ in range(3)]
        self.existing = self.queue.token()

    # --- front end
    @rule(target=requests, series=st.integers(1, 3), is_forced=st.booleans())
    def file(self, series: int, is_forced: bool) -> uuid.UUID:
        filed = self.queue.filed(main_series_id=make_series_id(series), is_forced=is_forced)
        key: uuid.UUID = filed.request.pk
        assert filed.is_deduplicated == (key in self.known)
        if filed.is_deduplicated:
            assert self.known[key].status in {"pending", "processing"}
        self.known.setdefault(key, Known())
        return key

    @rule(key=requests)
    def cancel(self, key: uuid.UUID) -> None:
        known = self.known[key]
        may = known.status in {"pending", "processing"}
        refusal = refusal_of(
            lambda: services.cancel(request_id=key, actor="doctor", now=self.queue.now)
        )
        assert refusal == (0 if may else 409)
        if may:
            self._end(known, "cancelled")

    # --- workers
    @rule(target=jobs, worker=st.integers(0, 2))
    def claim(self, worker: int) -> Any:
        lease_id = uuid.uuid4()
        due = self._see_expired()
        request = self.queue.claim(self.tokens[worker], lease_id=lease_id)
        self._learn_expired(due)
        for key, lease in due.items():
            assert self.queue.read(key).lease_id != lease, "a lease that ran out was not reaped"
        if request is None:
            assert not self._claimable(), "a request that is due was withheld"
            return multiple()
        known = self.known[request.pk]
        assert known.status == "pending", "a claim took what was not pending"
        known.status, known.holder = "processing", lease_id
        known.attempts += 1
        known.leases.add(lease_id)
        known.deadline = request.deadline_at
        assert request.attempt_count == known.attempts <= ATTEMPTS
        return Job(
            queue=self.queue,
            token=self.tokens[worker],
            request_id=request.pk,
            lease_id=lease_id,
        )

    @rule(job=jobs)
    def claim_again_with_the_same_key(self, job: Job) -> None:
        known = self.known[job.request_id]
        holds = self._holds(job)
        attempts = known.attempts
        due = self._see_expired()
        refusal = refusal_of(lambda: self.queue.claim(job.token, lease_id=job.lease_id))
        self._learn_expired(due)
        assert (refusal == 0) == holds, refusal
        assert known.attempts == attempts

    @rule(job=jobs, progress=st.floats(0, 1))
    def beat(self, job: Job, progress: float) -> None:
        known = self.known[job.request_id]
        holds = self._holds(job)
        refusal = refusal_of(lambda: job.beat(progress=progress))
        if holds:
            assert refusal == 0
            assert job.request.lease_expires_at <= known.deadline
        elif known.status in {"completed", "failed", "cancelled"}:
            assert refusal == 410
        else:
            assert refusal == 412

    @rule(job=jobs)
    def complete(self, job: Job) -> None:
        known = self.known[job.request_id]
        self.number += 1
        result = {"number": self.number}
        if known.status == "cancelled":
            assert refusal_of(lambda: job.complete(result=result)) == 410
        elif known.result is not None:
            assert job.complete(result=result) == "superseded"
        else:
            assert job.complete(result=result) == "accepted"
            assert job.complete(result=result) == "replay"
            known.result = result
            self._end(known, "completed")

    @rule(job=jobs, is_retryable=st.booleans())
    def fail(self, job: Job, is_retryable: bool) -> None:
        known = self.known[job.request_id]
        is_current = known.status == "processing" and known.holder == job.lease_id
        refusal = refusal_of(lambda: job.fail(is_retryable=is_retryable))
        if is_current:
            assert refusal == 0
            is_over = not is_retryable or known.attempts >= ATTEMPTS
            self._end(known, "failed" if is_over else "pending")
        else:
            assert refusal == (410 if known.status == "cancelled" else 412)

    @rule(job=jobs)
    def release(self, job: Job) -> None:
        known = self.known[job.request_id]
        is_current = known.status == "processing" and known.holder == job.lease_id
        refusal = refusal_of(job.release)
        if is_current:
            assert refusal == 0
            known.attempts -= 1
            self._end(known, "pending")
        else:
            assert refusal == (410 if known.status == "cancelled" else 412)

    @rule(job=consumes(jobs))
    def lose_a_worker(self, job: Job) -> None:
        """Nobody speaks under this lease any more."""

    # --- existing workers
    @rule(key=requests)
    def an_existing_worker_starts(self, key: uuid.UUID) -> None:
        known = self.known[key]
        before = known.status
        due = self._see_expired()
        refusal = refusal_of(lambda: self.queue.start(self.existing, key))
        self._learn_expired(due)
        row = self.queue.read(key)
        if refusal == 0 and row.lease_id != known.holder:
            assert known.status == "pending"
            known.status, known.holder = "processing", row.lease_id
            known.attempts += 1
            known.deadline = row.deadline_at
        elif before in {"completed", "failed", "cancelled"}:
            assert refusal == 409

    @rule(key=requests, is_success=st.booleans())
    def an_existing_worker_finishes(self, key: uuid.UUID, is_success: bool) -> None:
        known = self.known[key]
        row = self.queue.read(key)
        is_anothers = bool(
            row.lease_expires_at
            and row.lease_expires_at > self.queue.now
            and not row.attempts.filter(lease_id=row.lease_id, is_legacy=True).exists()
        )
        outcome = ""
        with suppress(AlreadyClaimed, WrongState):
            outcome = self.queue.finish(self.existing, key, is_success=is_success)
        after = self.queue.read(key)
        if outcome == "accepted":
            assert not is_anothers, "the live lease of another was touched"
            assert known.result is None
            known.result = after.result
            self._end(known, "completed")
        elif outcome == "failed":
            assert not is_anothers
            assert not is_success
            known.attempts = after.attempt_count
            self._end(known, after.status)
        else:
            assert after.status == row.status
            assert after.lease_id == row.lease_id

    # --- time
    @rule(seconds=st.sampled_from([1, 29, 60, LEASE_S + 1, 600, DEADLINE_S + 1]))
    def pass_time(self, seconds: int) -> None:
        self.queue.pass_time(seconds)

    # --- what always holds
    @invariant()
    def the_model_and_the_rows_agree(self) -> None:
        for row in SegmentationRequest.objects.all():
            known = self.known[row.pk]
            assert row.status == known.status
            assert row.result == known.result
            assert row.lease_id == known.holder
            assert (row.lease_id is not None) == (row.status == "processing")
            assert row.attempt_count == known.attempts <= ATTEMPTS

    @invariant()
    def every_history_is_a_chain_of_allowed_steps(self) -> None:
        for row in SegmentationRequest.objects.prefetch_related("events"):
            steps = [
                (event.from_status, event.to_status)
                for event in sorted(row.events.all(), key=lambda event: event.pk)
                if event.from_status != event.to_status
            ]
            assert set(steps) <= ALLOWED
            assert [old for old, _ in steps] == ["", *[new for _, new in steps[:-1]]]
            assert steps[-1][1] == row.status
            assert sum(new == "completed" for _, new in steps) <= 1

    def teardown(self) -> None:
        """Look whether every request comes to an end once somebody works."""
        if not hasattr(self, "tokens"):
            return
        for _ in range(20 * (len(self.known) + 1)):
            if not SegmentationRequest.objects.active().exists():
                break
            self.queue.pass_time(LEGACY_S + 1)
            request = self.queue.claim(self.tokens[0])
            if request is not None and request.lease_id is not None:
                job = Job(
                    queue=self.queue,
                    token=self.tokens[0],
                    request_id=request.pk,
                    lease_id=request.lease_id,
                )
                job.complete()
        assert not SegmentationRequest.objects.active().exists(), "a request never ends"

    # --- the model
    def _holds(self, job: Job) -> bool:
        known = self.known[job.request_id]
        return (
            known.status == "processing"
            and known.holder == job.lease_id
            and self.queue.now < known.deadline
        )

    def _end(self, known: Known, status: str) -> None:
        known.status, known.holder, known.deadline = status, None, None

    def _see_expired(self) -> dict[uuid.UUID, uuid.UUID | None]:
        return {
            row.pk: row.lease_id
            for row in SegmentationRequest.objects.filter(status="processing")
            if row.lease_expires_at is not None and row.lease_expires_at <= self.queue.now
        }

    def _learn_expired(self, due: dict[uuid.UUID, uuid.UUID | None]) -> None:
        """Follow what a call reaped: only leases that ran out, and by the count of attempts."""
        for row in SegmentationRequest.objects.all():
            known = self.known[row.pk]
            if known.status == "processing" and row.lease_id != known.holder:
                assert known.holder == due.get(row.pk), "a living lease was reaped"
                self._end(known, "failed" if known.attempts >= ATTEMPTS else "pending")

    def _claimable(self) -> bool:
        return SegmentationRequest.objects.filter(
            status="pending", available_at__lte=self.queue.now, offered_until__isnull=True
        ).exists()


def refusal_of(call: Any) -> int:
    """Return the HTTP status with which a service refuses, 0 if it doesn't."""
    try:
        call()
    except ServiceError as error:
        return error.http_status
    return 0


@pytest.mark.timeout(0 if STORIES > 100 else 300)
def test_every_story_ends_well(db: None) -> None:
    class InItsOwnTransaction(QueueStory):
        """One story, undone afterwards."""

        def __init__(self) -> None:
            self.undo = transaction.atomic()
            self.undo.__enter__()
            super().__init__()

        def teardown(self) -> None:
            try:
                super().teardown()
            finally:
                transaction.set_rollback(True)
                self.undo.__exit__(None, None, None)

    run_state_machine_as_test(
        InItsOwnTransaction,
        settings=settings(
            max_examples=STORIES,
            stateful_step_count=40,
            deadline=None,
            database=None,
            derandomize=STORIES <= 100,
            suppress_health_check=list(HealthCheck),
        ),
    )

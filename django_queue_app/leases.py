"""How a worker gets a request and keeps it: claim, heartbeat, and leases that run out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, NoReturn
from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils import timezone

from django_queue_app import changes, statements, wrong_clock
from django_queue_app.changes import SERVER, WITHOUT_LEASE
from django_queue_app.compiled import Together
from django_queue_app.conf import conf
from django_queue_app.errors import (
    DeadlinePassed,
    InvalidRequest,
    LeaseNeverIssued,
    LeaseNotCurrent,
    NotYourJob,
    RequestCancelled,
    RequestFinished,
    RequestNotFound,
    Unauthenticated,
    WorkerTokenRequired,
)
from django_queue_app.models import ApiToken, Attempt, SegmentationRequest, Worker
from django_queue_app.states import FINISHED, Stage, Status
from django_queue_app.workers import WorkerInfo, first_seen, note, note_seen, said_by

# A claim reaps at most so many, so that a poll stays short after a long night.
_REAPED_AT_ONCE = 50


def claim(
    *, token: ApiToken, lease_id: UUID, worker: WorkerInfo, now: datetime | None = None
) -> SegmentationRequest | None:
    """Give the best pending request that this worker may take, or None.

    The same lease id gives the same request again, its attempt unchanged, while it holds it.
    Leases that ran out are reaped first.

    Raises
    ------
    WorkerTokenRequired
        The token is a user's.
    NotYourJob, LeaseNotCurrent, RequestCancelled, RequestFinished
        The lease id was granted before, and its run is over.
    """
    now = now or timezone.now()
    require_worker(token)
    said = said_by(token, worker)
    seen = _look(token, lease_id, said, now)
    note(seen.worker, said, now)
    if seen.is_idle:
        return None
    try:
        with transaction.atomic():
            if seen.was_granted:
                return _granted_before(token, lease_id, now)
            if seen.has_expired:
                reap_expired(now)
            return _grant(token, lease_id, seen.worker, now)
    except IntegrityError:
        # The same key twice at the same moment: the other call was granted the request.
        with transaction.atomic():
            return _granted_before(token, lease_id, now)


def require_worker(token: ApiToken) -> None:
    """Refuse a user's token.

    Raises
    ------
    WorkerTokenRequired
    """
    if token.kind != ApiToken.Kind.WORKER:
        raise WorkerTokenRequired


def _look(
    token: ApiToken, lease_id: UUID, said: Mapping[str, Any], now: datetime
) -> statements.Sight:
    """Look what a claim has to do, and set the times right if the clock was set back."""

    def look() -> statements.Sight | None:
        return statements.look(
            token=token,
            name=said["name"],
            lease_id=lease_id,
            models=said["models_offered"],
            now=now,
        )

    seen = look()
    if seen is None:
        first_seen(token, said, now)
        seen = look()
    if seen is not None and seen.is_clock_behind and wrong_clock.correct(now):
        seen = look()
    if seen is None:
        raise Unauthenticated  # its token is gone, and the worker's row with it
    return seen


def _granted_before(token: ApiToken, lease_id: UUID, now: datetime) -> SegmentationRequest | None:
    attempt = Attempt.objects.select_related("request", "token").filter(lease_id=lease_id).first()
    if attempt is None:
        return None
    _require_own(attempt, token)
    _renew(attempt, now)
    return SegmentationRequest.objects.get(pk=attempt.request_id)


def _grant(
    token: ApiToken, lease_id: UUID, worker: Worker, now: datetime
) -> SegmentationRequest | None:
    def take(values: Mapping[str, Any]) -> int:
        return statements.take_best(
            token=token, models=worker.models_offered, now=now, values=values
        )

    return grant(
        take,
        token=token,
        lease_id=lease_id,
        worker=worker,
        lease=conf.lease,
        deadline=conf.deadline,
        now=now,
    )


def grant(
    take: Callable[[Mapping[str, Any]], int],
    *,
    token: ApiToken,
    lease_id: UUID,
    worker: Worker,
    lease: timedelta,
    deadline: timedelta,
    now: datetime,
) -> SegmentationRequest | None:
    """Take a request by the one UPDATE of `statements.taking`; None if there is none to take."""
    values = {
        "lease_id": lease_id,
        "lease_expires_at": now + min(lease, deadline),
        "deadline_at": now + deadline,
        "started_at": now,
        "processed_by": worker.name,
    }
    if take(values) != 1:
        return None
    request = statements.held_by(lease_id)
    with Together() as together:
        open_attempt(
            request, token=token, worker=worker, lease_id=lease_id, now=now, together=together
        )
        changes.note(
            request,
            Status.PENDING,
            actor=actor_of(worker.name),
            reason="claimed",
            now=now,
            together=together,
        )
    return request


def open_attempt(
    request: SegmentationRequest,
    *,
    token: ApiToken,
    worker: Worker,
    lease_id: UUID,
    now: datetime,
    together: Together,
) -> None:
    """Write that a run begins."""
    statements.ADD_RUN.write(
        together,
        request=request.pk,
        number=request.claim_count,
        lease_id=lease_id,
        token=token.pk,
        worker=worker.pk,
        worker_name=worker.name,
        is_legacy=worker.is_legacy,
        started_at=now,
    )


def actor_of(worker_name: str) -> str:
    """Return how a worker is named in the history."""
    return f"worker:{worker_name}"


def reap_expired(now: datetime) -> int:
    """Take back requests whose leases ran out; return how many. Call it inside a transaction."""
    expired = SegmentationRequest.objects.lease_expired(now).order_by("lease_expires_at")
    reaped = list(expired.skipping_locked()[:_REAPED_AT_ONCE])
    for request in reaped:
        worker_name = request.processed_by
        changes.end_current_attempt(request, Attempt.Outcome.EXPIRED, now=now, code="lease_expired")
        give_back(
            request,
            now=now,
            actor=SERVER,
            code="lease_expired",
            message=f"The worker {worker_name} stopped answering, or took too long.",
            message_ko=f"워커 {worker_name}이(가) 응답하지 않거나 너무 오래 걸렸습니다.",
            is_retryable=True,
            pause=timedelta(0),
        )
    return len(reaped)


def give_back(
    request: SegmentationRequest,
    *,
    now: datetime,
    actor: str,
    code: str,
    message: str,
    message_ko: str = "",
    is_retryable: bool,
    pause: timedelta,
) -> None:
    """Make a request whose run went wrong pending again, or failed once attempts are used up."""
    if is_retryable and request.attempt_count < conf.max_attempts:
        changes.move(
            request,
            Status.PENDING,
            actor=actor,
            reason=code,
            detail=message,
            now=now,
            available_at=now + pause,
            progress=0.0,
            **WITHOUT_LEASE,
        )
        return
    changes.move(
        request,
        Status.FAILED,
        actor=actor,
        reason=code,
        detail=message,
        now=now,
        finished_at=now,
        failure_code=code,
        failure_message=message,
        failure_message_ko=message_ko,
        **WITHOUT_LEASE,
    )


def backoff(count: int) -> timedelta:
    """Return the pause after the `count`-th time that something went wrong, from 1."""
    doubled = conf.backoff_base_s * 2.0 ** min(count - 1, 30)
    return timedelta(seconds=min(doubled, conf.backoff_max_s))


def _require_own(attempt: Attempt, token: ApiToken) -> None:
    require_worker(token)
    # By name: a worker whose token was replaced still delivers what it had finished.
    if attempt.token_id != token.pk and attempt.token.name != token.name:
        raise NotYourJob


def attempt_of(
    request_id: UUID, lease_id: UUID, token: ApiToken, *, is_locked: bool = False
) -> Attempt:
    """Return the run of a lease, if the lease is this request's and this worker's.

    With `is_locked` its request is locked until the transaction ends.

    Raises
    ------
    RequestNotFound, LeaseNeverIssued, NotYourJob
    """
    attempt = statements.run_of(lease_id, request_id, is_locked=is_locked)
    if attempt is None:
        if not SegmentationRequest.objects.filter(pk=request_id).exists():
            raise RequestNotFound
        raise LeaseNeverIssued
    _require_own(attempt, token)
    return attempt


def heartbeat(
    *,
    request_id: UUID,
    lease_id: UUID,
    token: ApiToken,
    stage: str = "",
    progress: float | None = None,
    now: datetime | None = None,
) -> float:
    """Renew a lease and keep how far the worker has come; return the lease's seconds.

    What it doesn't say stays as it was.

    A lease that ran out is still current until a claim reaps it.

    Raises
    ------
    RequestNotFound, LeaseNeverIssued, NotYourJob, InvalidRequest
    RequestCancelled, RequestFinished
        410: drop the job.
    LeaseNotCurrent, DeadlinePassed
        412: another attempt has it, or this one took too long.
    """
    now = now or timezone.now()
    if stage not in {"", *Stage.values} or not 0.0 <= (progress or 0.0) <= 1.0:
        raise InvalidRequest(
            f"The stage is one of {', '.join(Stage.values)}; the progress is from 0 to 1.",
            "단계(stage)나 진행률(progress, 0~1)의 값이 잘못되었습니다.",
        )
    with transaction.atomic():
        attempt = attempt_of(request_id, lease_id, token)
        seen: dict[str, Any] = {"stage": stage} if stage else {}
        if progress is not None:
            seen["progress"] = progress
        # Everybody locks the worker's row before the request's, so that nobody waits in a circle.
        note_seen(attempt, now)
        expires_in_s = _renew(attempt, now, **seen)
        changes.announce(attempt.request)
    return expires_in_s


def _renew(attempt: Attempt, now: datetime, **seen: Any) -> float:
    deadline = attempt.request.deadline_at
    expires_at = now + (conf.legacy_lease if attempt.is_legacy else conf.lease)
    if deadline is not None:
        expires_at = min(expires_at, deadline)
    current = SegmentationRequest.objects.filter(
        pk=attempt.request_id,
        status=Status.PROCESSING,
        lease_id=attempt.lease_id,
        deadline_at__gt=now,
    )
    if current.update(lease_expires_at=expires_at, updated_at=now, **seen) != 1:
        _refuse_lease(attempt)
    return (expires_at - now).total_seconds()


def _refuse_lease(attempt: Attempt) -> NoReturn:
    """Say why a lease doesn't hold its request any more."""
    request = SegmentationRequest.objects.get(pk=attempt.request_id)
    if request.status == Status.CANCELLED:
        raise RequestCancelled
    if request.status in FINISHED:
        raise RequestFinished
    if request.lease_id == attempt.lease_id:
        raise DeadlinePassed
    raise LeaseNotCurrent

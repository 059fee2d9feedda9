"""Workers that know nothing of leases: four calls, every 30 s, told apart by their token.

Such a worker reads a list, starts each entry of it, and ignores a refusal. So it is shown at most
one request, kept for it for a while; starting it opens a lease that the site keeps on its behalf,
long enough for a worker without heartbeats. What it says later counts only for that lease.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from django_queue_app import changes
from django_queue_app.compiled import Together
from django_queue_app.conf import conf
from django_queue_app.errors import AlreadyClaimed, NotYourJob, WrongState
from django_queue_app.leases import (
    actor_of,
    grant,
    open_attempt,
    reap_expired,
    require_worker,
)
from django_queue_app.models import ApiToken, Attempt, SegmentationRequest, Worker
from django_queue_app.querysets import RequestQuerySet
from django_queue_app.results import accept_result, fail_attempt
from django_queue_app.statements import taking
from django_queue_app.states import Order, Status
from django_queue_app.text import clean_text
from django_queue_app.workers import WorkerInfo, note_worker

LegacyOutcome = Literal["accepted", "failed", "unchanged"]


@dataclass(frozen=True, kw_only=True)
class LegacyReport:
    """What an existing worker posts at the end.

    Parameters
    ----------
    is_success : bool
        Its `success`.
    seg_instance_id : str
        The mask that it stored in the PACS by itself.
    result : mapping
        JSON values: `tumor_detected`, `tumor_volume_voxels`, `elapsed_time_seconds`, ...
    error : str
        Its sentence when it failed.
    """

    is_success: bool
    result: Mapping[str, Any]
    seg_instance_id: str = ""
    error: str = ""


@transaction.atomic
def offer(*, token: ApiToken, now: datetime | None = None) -> SegmentationRequest | None:
    """Return the request that this caller is shown, kept for it until `legacy_offer` is over.

    Reading the list again does not prolong that, so a caller that only looks can't hold a request
    back from the workers that would do it.
    """
    now = now or timezone.now()
    require_worker(token)
    _note(token, now)
    reap_expired(now)
    shown = SegmentationRequest.objects.filter(
        status=Status.PENDING, offered_to=token, offered_until__gt=now
    ).first()
    if shown is not None:
        return shown
    best = _ready(token, now).best_first().skipping_locked().values("pk")[:1]
    offered = SegmentationRequest.objects.filter(pk=best, status=Status.PENDING).update(
        offered_to=token, offered_until=now + conf.legacy_offer
    )
    if offered != 1:
        return None
    return SegmentationRequest.objects.filter(
        status=Status.PENDING, offered_to=token, offered_until__gt=now
    ).first()


@transaction.atomic
def start(*, token: ApiToken, request_id: UUID, now: datetime | None = None) -> SegmentationRequest:
    """Claim a request for a worker without heartbeats (`update-status` with "processing").

    Saying it twice is harmless.

    Raises
    ------
    RequestNotFound, WorkerTokenRequired, NotYourJob
    AlreadyClaimed
        Another worker has it, or it is kept for another.
    WrongState
        It is finished.
    """
    now = now or timezone.now()
    require_worker(token)
    worker = _note(token, now)
    reap_expired(now)
    request = _lock_in_lane(request_id, token)
    if request.status == Status.PROCESSING and _holder(request, token) is not None:
        return request
    if request.status == Status.PROCESSING or _is_kept_for_another(request, token, now):
        raise AlreadyClaimed
    if request.status != Status.PENDING:
        raise WrongState(
            f"The request is already {request.status}; ask for the next one.",
            "요청이 이미 끝났습니다. 다음 요청을 가져가십시오.",
        )
    claimed = _claim(SegmentationRequest.objects.filter(pk=request.pk), token, worker, now)
    if claimed is None:
        raise AlreadyClaimed
    return claimed


@transaction.atomic
def claim_inference(*, token: ApiToken, now: datetime | None = None) -> SegmentationRequest | None:
    """Claim the best request at once, as `GET /api/inference/pending` does."""
    now = now or timezone.now()
    require_worker(token)
    worker = _note(token, now)
    reap_expired(now)
    return _claim(_ready(token, now), token, worker, now)


@transaction.atomic
def finish(
    *, token: ApiToken, request_id: UUID, report: LegacyReport, now: datetime | None = None
) -> LegacyOutcome:
    """Take what an existing worker posts at the end (`complete-request` without a lease).

    Returns
    -------
    str
        "accepted" (it is the result now), "failed" (its run is over) or "unchanged" (the request
        was finished already, or the report is stale).

    Raises
    ------
    RequestNotFound, WorkerTokenRequired, NotYourJob
    AlreadyClaimed
        Another worker holds the request: its lease is not to be touched.
    WrongState
        A failure of a request that this worker never had.
    """
    now = now or timezone.now()
    require_worker(token)
    worker = _note(token, now)
    request = _lock_in_lane(request_id, token)
    if request.status in {Status.COMPLETED, Status.CANCELLED}:
        return "unchanged"
    if report.is_success:
        return _succeed(request, token, worker, report, now)
    return _fail(request, token, worker, report, now)


def _lock_in_lane(request_id: UUID, token: ApiToken) -> SegmentationRequest:
    request = changes.lock(request_id)
    if request.lane != token.lane:
        raise NotYourJob(
            "This request is for another lane's workers; ask for the next one.",
            "다른 레인의 워커에게 배정된 요청입니다. 다음 요청을 가져가십시오.",
        )
    return request


def _note(token: ApiToken, now: datetime) -> Worker:
    return note_worker(token, WorkerInfo(name=token.name), now, is_legacy=True)


def _ready(token: ApiToken, now: datetime) -> RequestQuerySet:
    # It names no models, so it gets what any worker may do: what names none, or the site's default.
    models = [conf.default_model] if conf.default_model else []
    ready = SegmentationRequest.objects.ready(now, lane=token.lane, models=models)
    # They feed the series to the network as they come, so nothing that is yet to be sorted.
    return ready.filter(order=Order.GIVEN).not_offered_to_others(token, now)


def _claim(
    candidates: RequestQuerySet, token: ApiToken, worker: Worker, now: datetime
) -> SegmentationRequest | None:
    def take(values: Mapping[str, Any]) -> int:
        rows, written = taking(candidates, values)
        return rows.update(**written)

    return grant(
        take,
        token=token,
        lease_id=uuid.uuid4(),
        worker=worker,
        lease=conf.legacy_lease,
        deadline=conf.legacy_lease,
        now=now,
    )


def _own_attempts(token: ApiToken) -> Any:
    # By name: the same worker with a replaced token. Only runs without a lease of the worker's
    # own: a newer program with the same token is another worker.
    return Attempt.objects.filter(token__name=token.name, is_legacy=True)


def _holder(request: SegmentationRequest, token: ApiToken) -> Attempt | None:
    """Return this worker's run if it holds the request now."""
    if request.lease_id is None:
        return None
    attempt: Attempt | None = _own_attempts(token).filter(lease_id=request.lease_id).first()
    return attempt


def _last_run(request: SegmentationRequest, token: ApiToken) -> Attempt | None:
    attempt: Attempt | None = (
        _own_attempts(token).filter(request=request).order_by("-number").first()
    )
    return attempt


def _is_kept_for_another(request: SegmentationRequest, token: ApiToken, now: datetime) -> bool:
    return (
        request.status == Status.PENDING
        and request.offered_until is not None
        and request.offered_until > now
        and request.offered_to_id != token.pk
    )


def _is_held_by_another(request: SegmentationRequest, token: ApiToken, now: datetime) -> bool:
    is_live = request.lease_expires_at is not None and request.lease_expires_at > now
    return is_live and _holder(request, token) is None


def _succeed(
    request: SegmentationRequest,
    token: ApiToken,
    worker: Worker,
    report: LegacyReport,
    now: datetime,
) -> LegacyOutcome:
    if _is_held_by_another(request, token, now):
        raise AlreadyClaimed
    attempt = _holder(request, token) or _last_run(request, token)
    if attempt is None and request.status == Status.FAILED:
        return "unchanged"
    # It ignores a refused start, and the answer to its start may have been lost: a mask for a
    # request that nobody holds is welcome all the same.
    attempt = attempt or _open_run(request, token, worker, now)
    accept_result(request, attempt, result=report.result, artifacts={}, finalised=None, now=now)
    _note_own_mask(request, attempt, clean_text(report.seg_instance_id, 64), now)
    return "accepted"


def _note_own_mask(
    request: SegmentationRequest, attempt: Attempt, seg_instance_id: str, now: datetime
) -> None:
    if not seg_instance_id:
        return
    SegmentationRequest.objects.filter(pk=request.pk).update(
        seg_instance_id=seg_instance_id, saved_to_pacs_at=now
    )
    changes.note(
        request,
        request.status,
        actor=actor_of(attempt.worker_name),
        reason="saved_to_pacs",
        detail="The worker stored the mask by itself.",
        now=now,
    )


def _fail(
    request: SegmentationRequest,
    token: ApiToken,
    worker: Worker,
    report: LegacyReport,
    now: datetime,
) -> LegacyOutcome:
    holder = _holder(request, token)
    if holder is None and request.status == Status.PROCESSING:
        raise AlreadyClaimed
    if holder is None and request.status == Status.PENDING:
        holder = _offered_run(request, token, worker, now)
    if holder is None:
        return "unchanged"
    # It can't say whether trying again makes sense, and it also reports a failure when only an
    # answer was late: so the attempts decide.
    fail_attempt(
        request,
        holder,
        code="worker_failed",
        message=report.error,
        is_retryable=True,
        now=now,
    )
    return "failed"


def _offered_run(
    request: SegmentationRequest, token: ApiToken, worker: Worker, now: datetime
) -> Attempt | None:
    """Return a run for a failure whose start never arrived; None for a stale report."""
    if request.offered_to_id == token.pk:
        _claim(SegmentationRequest.objects.filter(pk=request.pk), token, worker, now)
        request.refresh_from_db()
        return _holder(request, token)
    if _last_run(request, token) is None:
        raise WrongState(
            "This worker does not have this request; start it first.",
            "이 워커가 맡은 요청이 아닙니다. 먼저 시작하십시오.",
        )
    return None


def _open_run(
    request: SegmentationRequest, token: ApiToken, worker: Worker, now: datetime
) -> Attempt:
    request.claim_count += 1
    SegmentationRequest.objects.filter(pk=request.pk).update(claim_count=request.claim_count)
    lease_id = uuid.uuid4()
    with Together() as together:
        open_attempt(
            request, token=token, worker=worker, lease_id=lease_id, now=now, together=together
        )
    return Attempt.objects.get(lease_id=lease_id)

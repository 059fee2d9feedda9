"""How a front end's call waits for its result: held outside Django, or, under WSGI, in its thread.

`docs/api.md` tells callers which status means what: 200 the result, 202 it goes on (the caller
said `Prefer`), 504 it goes on (the caller said nothing), 502 it failed, 409 it was cancelled.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from django_queue_app.api.encode import failure_of, filed, json_answer, result_of, status_url
from django_queue_app.api.errors import (
    CancelledWhileWaiting,
    NotDoneInTime,
    SegmentationFailed,
    error_response,
    language_of,
)
from django_queue_app.api.headers import Prefer
from django_queue_app.conf import conf
from django_queue_app.errors import RequestNotFound, ServiceError
from django_queue_app.hold_header import HOLD_HEADER, SCOPE_KEY, Hold, Replay
from django_queue_app.models import SegmentationRequest
from django_queue_app.states import Status
from django_queue_app.wakeup import OutcomeWish

RETRY_AFTER_S = 2
LOOK_INTERVAL_S = 0.25
PACS_GRACE = timedelta(seconds=5)


def replay_of(request: HttpRequest) -> Replay | None:
    """Give what the ASGI wrapper says about this call; None where nothing can be held."""
    replay = getattr(request, "scope", {}).get(SCOPE_KEY)
    return replay if isinstance(replay, Replay) else None


def request_under_wait(request: HttpRequest) -> SegmentationRequest | None:
    """Give the request that this call filed before it was held; None on the first pass."""
    replay = replay_of(request)
    if replay is None or replay.request_id is None:
        return None
    return _read(replay.request_id)


def _read(request_id: UUID) -> SegmentationRequest:
    found = SegmentationRequest.objects.filter(pk=request_id).first()
    if found is None:
        raise RequestNotFound
    return found


def answer_after_wait(
    request: HttpRequest, job: SegmentationRequest, *, prefer: Prefer, is_deduplicated: bool
) -> HttpResponse:
    """Answer with the outcome of `job`, waiting for it as long as the caller wants.

    Parameters
    ----------
    request : HttpRequest
        The call.
    job : SegmentationRequest
        As it was filed, or as it is now.
    prefer : Prefer
        The caller's preference; without one the site's `SEGMENTATION_WAIT_SECONDS`.
    is_deduplicated : bool
        The same was under way already.
    """
    prefer = prefer.capped(conf.wait_s)
    wait_s = _wait_of(prefer)
    can_hold = replay_of(request) is not None
    if wait_s > 0 and not can_hold:
        job = _wait_in_thread(job, wait_s)
    response = _answer(request, job, prefer=prefer, is_deduplicated=is_deduplicated)
    if prefer.applied:
        response["Preference-Applied"] = prefer.applied
    if wait_s > 0 and can_hold and not _is_settled(job):
        response[HOLD_HEADER] = Hold(
            wait_s=wait_s,
            wish=OutcomeWish(request_id=job.pk),
            is_deduplicated=is_deduplicated,
        ).to_header()
    return response


def _is_settled(job: SegmentationRequest) -> bool:
    """Whether waiting longer changes nothing.

    A fresh result goes to the PACS a moment after it is visible. Pages look at `saved_to_orthanc`
    once, so they are not told before that, unless the PACS takes its time.
    """
    if job.status != Status.COMPLETED or job.is_saved_to_pacs or job.finished_at is None:
        return job.is_finished
    return timezone.now() - job.finished_at > PACS_GRACE


def _wait_of(prefer: Prefer) -> float:
    if prefer.wait_s is not None:
        return prefer.wait_s
    return 0.0 if prefer.is_async else conf.wait_s


def _wait_in_thread(job: SegmentationRequest, wait_s: float) -> SegmentationRequest:
    """Look again and again; the database connection is given back between two looks."""
    end = time.monotonic() + wait_s
    while not _is_settled(job) and (left := end - time.monotonic()) > 0:
        if not connection.in_atomic_block:
            connection.close()
        time.sleep(min(LOOK_INTERVAL_S, left))
        job = _read(job.pk)
    return job


def _answer(
    request: HttpRequest, job: SegmentationRequest, *, prefer: Prefer, is_deduplicated: bool
) -> HttpResponse:
    if job.status == Status.COMPLETED:
        result = result_of(job, language_of(request))
        return json_answer({**result, "deduplicated": is_deduplicated})
    if job.status == Status.FAILED:
        return _refusal(request, job, _failure(job))
    if job.status == Status.CANCELLED:
        return _refusal(request, job, CancelledWhileWaiting())
    if prefer.applied:
        return accepted(job, is_deduplicated=is_deduplicated)
    return _refusal(request, job, NotDoneInTime(retry_after_s=RETRY_AFTER_S))


def accepted(job: SegmentationRequest, *, is_deduplicated: bool) -> HttpResponse:
    """Answer 202."""
    headers = {"Retry-After": str(RETRY_AFTER_S), "Location": status_url(job)}
    body = filed(job, is_deduplicated=is_deduplicated)
    return json_answer(body, status=202, headers=headers)


def _failure(job: SegmentationRequest) -> ServiceError:
    return SegmentationFailed(
        f"The segmentation failed: {job.failure_in('en') or job.failure_code}",
        f"분할에 실패했습니다: {job.failure_in('ko') or job.failure_code}",
    )


def _refusal(request: HttpRequest, job: SegmentationRequest, error: ServiceError) -> HttpResponse:
    more: dict[str, Any] = {
        "request_id": str(job.pk),
        "series_id": job.main_series_id,
        "status": job.status,
        "status_url": status_url(job),
    }
    if job.status == Status.FAILED:
        more["failure"] = failure_of(job, language_of(request))
    return error_response(request, error, **more)

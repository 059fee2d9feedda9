"""The worker's poll: it asks for work and may wait for it (CONTRACT 2.2)."""

from __future__ import annotations

import logging
import re
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from ninja import Router

from django_queue_app import log_context, served, services, storing
from django_queue_app.api import worker_schemas
from django_queue_app.api.auth import WORKER, worker_token_of
from django_queue_app.api.document import IDEMPOTENCY_KEY, PREFER, answers, extra
from django_queue_app.api.encode import json_answer
from django_queue_app.api.errors import WorkerTooOld
from django_queue_app.api.headers import read_idempotency_key, read_prefer
from django_queue_app.api.settings import least_worker_version
from django_queue_app.api.waiting import replay_of
from django_queue_app.conf import conf
from django_queue_app.errors import ServiceError
from django_queue_app.hold_header import HOLD_HEADER, Hold
from django_queue_app.models import ApiToken, SegmentationRequest
from django_queue_app.pacs.port import InstanceNotFound, PacsUnavailable, SeriesNotFound
from django_queue_app.services import WorkerInfo
from django_queue_app.wakeup import ClaimWish

logger = logging.getLogger(__name__)
router = Router(auth=WORKER, tags=["worker"])

LONGEST_CLAIM_WAIT_S = 25.0
# After a wait the worker may ask again at once; without one it must not spin.
RETRY_AFTER_WAIT_S = 1
RETRY_AFTER_S = 2


@router.post(
    "pending-requests/claim/",
    response=answers({200: worker_schemas.Claimed, 204: None}, 502, 400, 410, 412, 413, 422, 426),
    openapi_extra=extra(IDEMPOTENCY_KEY, PREFER),
    operation_id="claim",
    summary="Take the best pending request of this worker's lane",
)
def claim(request: HttpRequest, body: worker_schemas.ClaimBody) -> HttpResponse:
    """Grant the best request; 204 when there is none."""
    lease_id = read_idempotency_key(request)
    token = worker_token_of(request)
    _require_new_enough(body.worker.version)
    worker = WorkerInfo(
        name=body.worker.name,
        version=body.worker.version,
        device=body.worker.device,
        models=tuple(body.worker.models),
    )
    granted = services.claim(token=token, lease_id=lease_id, worker=worker)
    if granted is None:
        storing.retry_in_background()
        return _nothing_yet(request, token, worker)
    return _grant(granted, token, lease_id)


def _grant(granted: SegmentationRequest, token: ApiToken, lease_id: UUID) -> HttpResponse:
    """Answer with the lease and the inputs; a request whose inputs are gone fails for good."""
    log_context.bind(request_id=granted.pk, attempt=granted.attempt_count)
    try:
        manifest = served.manifest(granted)
    except PacsUnavailable:
        services.release(request_id=granted.pk, lease_id=lease_id, token=token)
        raise
    except ServiceError as error:
        _fail_for_good(granted, token, lease_id, error)
        # The next claim needs a new key, so the worker asks again, at once.
        return _nothing(0)
    return json_answer(
        {
            "request_id": str(granted.pk),
            "series_ids": granted.series_ids,
            "main_series_id": granted.main_series_id,
            "order": granted.order,
            "model": granted.model,
            "attempt": granted.attempt_count,
            "lease": {
                "id": str(lease_id),
                "expires_in": granted.lease_expires_in_s(),
                "deadline_in": granted.deadline_in_s(),
            },
            "manifest": manifest,
            "direct_fetch": conf.direct_fetch,
            "instances_at_once": worker_schemas.MOST_AT_ONCE,
        },
        headers={"ETag": f'"{lease_id}"'},
    )


def _fail_for_good(
    granted: SegmentationRequest, token: ApiToken, lease_id: UUID, error: ServiceError
) -> None:
    is_gone = isinstance(error, SeriesNotFound | InstanceNotFound)
    services.fail(
        request_id=granted.pk,
        lease_id=lease_id,
        token=token,
        code="input_vanished" if is_gone else error.code,
        message=f"The inputs can't be served: {error.message}",
        message_ko=f"입력 영상을 제공할 수 없습니다: {error.message_ko}",
        is_retryable=False,
    )


def _nothing_yet(request: HttpRequest, token: ApiToken, worker: WorkerInfo) -> HttpResponse:
    """Answer 204, and ask the ASGI wrapper to hold it back if the worker wants to wait."""
    prefer = read_prefer(request).capped(LONGEST_CLAIM_WAIT_S)
    wait_s = prefer.wait_s or 0.0
    if wait_s <= 0 or replay_of(request) is None:
        return _nothing(RETRY_AFTER_S)
    response = _nothing(RETRY_AFTER_WAIT_S)
    response["Preference-Applied"] = prefer.applied
    wish = ClaimWish(lane=token.lane, models=frozenset(worker.models))
    response[HOLD_HEADER] = Hold(wait_s=wait_s, wish=wish).to_header()
    return response


def _nothing(retry_after_s: int) -> HttpResponse:
    response = HttpResponse(status=204)
    del response["Content-Type"]
    response["Retry-After"] = str(retry_after_s)
    response["Cache-Control"] = "no-store"
    return response


def _require_new_enough(version: str) -> None:
    least = least_worker_version()
    if _numbers(version) < _numbers(least):
        raise WorkerTooOld(
            f"This worker is version {version or 'unknown'}; the site needs {least}. Update it.",
            f"워커 버전이 {version or '알 수 없음'}입니다. {least} 이상으로 업데이트하십시오.",
        )


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d{1,9}(\.\d{1,9}){0,5}", version.strip().lstrip("v"))
    return tuple(int(part) for part in match.group().split(".")) if match else ()

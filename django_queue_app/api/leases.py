"""What a worker says about a request that it holds: progress, the end, or giving it back."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from ninja import Router

from django_queue_app import services
from django_queue_app.api import completion, existing, schemas, worker_schemas
from django_queue_app.api.attempts import find_own_attempt, request_key
from django_queue_app.api.auth import WORKER, worker_token_of
from django_queue_app.api.document import IF_MATCH, IF_MATCH_OPTIONAL, answers, extra
from django_queue_app.api.encode import json_answer
from django_queue_app.api.errors import BodyInvalid
from django_queue_app.api.headers import read_lease, require_lease
from django_queue_app.models import ApiToken

router = Router(auth=WORKER, tags=["worker"])


@router.post(
    "requests/{request_id}/heartbeat/",
    response=answers({200: worker_schemas.Renewed}, 400, 404, 410, 412, 413, 422),
    openapi_extra=extra(IF_MATCH),
    operation_id="heartbeat",
    summary="Renew the lease and tell the progress",
)
def heartbeat(
    request: HttpRequest, request_id: str, body: worker_schemas.HeartbeatBody | None = None
) -> HttpResponse:
    """Renew."""
    body = body or worker_schemas.HeartbeatBody()
    expires_in_s = services.heartbeat(
        request_id=request_key(request_id),
        lease_id=require_lease(request),
        token=worker_token_of(request),
        stage=body.stage or "",
        progress=body.progress,
    )
    return json_answer({"expires_in": expires_in_s})


@router.post(
    "requests/{request_id}/release/",
    response=answers({200: schemas.Changed}, 400, 404, 409, 410, 412),
    openapi_extra=extra(IF_MATCH),
    operation_id="release",
    summary="Give a request back unharmed",
)
def release(request: HttpRequest, request_id: str) -> HttpResponse:
    """Give it back; the attempt does not count."""
    released = services.release(
        request_id=request_key(request_id),
        lease_id=require_lease(request),
        token=worker_token_of(request),
    )
    return json_answer({"request_id": str(released.pk), "status": released.status})


@router.post(
    "complete-request/{request_id}/",
    response=answers({200: worker_schemas.Completed}, 400, 404, 409, 410, 412, 413, 422, 502),
    openapi_extra=extra(IF_MATCH_OPTIONAL),
    operation_id="complete_request",
    summary="Deliver a result or a failure",
)
def complete_request(
    request: HttpRequest, request_id: str, body: worker_schemas.CompleteBody
) -> HttpResponse:
    """Take the end of a request; without a lease it is an existing worker's."""
    key = request_key(request_id)
    token = worker_token_of(request)
    lease_id = read_lease(request)
    if lease_id is None:
        return existing.finish(token, key, body.model_dump())
    if body.success:
        return _take_result(key, lease_id, token, body)
    return _take_failure(key, lease_id, token, body)


def _take_result(
    key: UUID, lease_id: UUID, token: ApiToken, body: worker_schemas.CompleteBody
) -> HttpResponse:
    if body.result is None or body.artifacts is None:
        raise BodyInvalid(
            "A success needs result and artifacts.", "성공에는 result와 artifacts가 필요합니다."
        )
    attempt = find_own_attempt(key, lease_id, token)
    outcome = completion.complete(
        attempt, token, result=body.result.model_dump(mode="json"), artifacts=body.artifacts
    )
    return json_answer({"request_id": str(key), "status": "completed", "outcome": outcome})


def _take_failure(
    key: UUID, lease_id: UUID, token: ApiToken, body: worker_schemas.CompleteBody
) -> HttpResponse:
    failure = body.failure
    if failure is None and body.error:
        failure = worker_schemas.FailureBody(code="worker_failed", message=body.error)
    if failure is None:
        raise BodyInvalid(
            "A failure needs failure: {code, message, retryable}.",
            "실패에는 failure: {code, message, retryable}가 필요합니다.",
        )
    failed = services.fail(
        request_id=key,
        lease_id=lease_id,
        token=token,
        code=failure.code,
        message=failure.message,
        message_ko=failure.message_ko,
        is_retryable=failure.retryable,
    )
    return json_answer({"request_id": str(key), "status": failed.status, "outcome": "failed"})

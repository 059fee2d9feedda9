"""The calls of existing workers, which know no lease (CONTRACT 2.2, "Existing workers")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from ninja import Router

from django_queue_app import legacy
from django_queue_app.api import schemas, worker_schemas
from django_queue_app.api.attempts import request_key
from django_queue_app.api.auth import (
    FRONT_END_OR_WORKER,
    WORKER,
    caller_of,
    worker_token_of,
)
from django_queue_app.api.document import answers
from django_queue_app.api.encode import json_answer
from django_queue_app.api.visibility import visible_requests
from django_queue_app.legacy import LegacyReport
from django_queue_app.models import ApiToken, SegmentationRequest
from django_queue_app.states import Status

router = Router(tags=["existing workers"])
inference_router = Router(auth=WORKER, tags=["existing workers"])

MOST_LISTED = 50
# What an existing worker reports of its result; the rest of its body is about the request.
RESULT_KEYS = ("tumor_detected", "tumor_volume_voxels", "elapsed_time_seconds")


@router.get(
    "pending-requests/",
    auth=FRONT_END_OR_WORKER,
    response=answers({200: worker_schemas.PendingRequests}, 422),
    operation_id="list_pending_requests",
    summary="The one request kept for this worker, or, to a user, the queue",
)
def list_pending(request: HttpRequest, all: bool = False) -> HttpResponse:
    """Offer one request to an existing worker; list at most 50 to a user or with `?all=1`."""
    caller = caller_of(request)
    if all or not caller.is_worker:
        pending = visible_requests(caller).filter(status=Status.PENDING)
        return _list(list(pending.best_first()[:MOST_LISTED]))
    offered = legacy.offer(token=worker_token_of(request))
    return _list([] if offered is None else [offered])


def _list(requests: Sequence[SegmentationRequest]) -> HttpResponse:
    items = [
        {
            "request_id": str(one.pk),
            "series_ids": one.series_ids,
            "main_series_id": one.main_series_id,
            "requested_at": one.created_at.isoformat(),
            "requested_by": one.requested_by,
        }
        for one in requests
    ]
    return json_answer({"count": len(items), "requests": items})


@router.post(
    "update-status/{request_id}/",
    auth=WORKER,
    response=answers({200: schemas.Changed}, 400, 404, 409, 413, 422),
    operation_id="update_status",
    summary="Claim the request that was offered, for 30 minutes",
)
def update_status(
    request: HttpRequest,
    request_id: str,
    body: worker_schemas.UpdateStatusBody,  # noqa: ARG001  (its clock is not used, its status is checked)
) -> HttpResponse:
    """Claim."""
    started = legacy.start(token=worker_token_of(request), request_id=request_key(request_id))
    return json_answer({"request_id": str(started.pk), "status": started.status})


@inference_router.get(
    "pending",
    response=answers({200: worker_schemas.InferencePending}),
    operation_id="inference_pending",
    summary="Claim the next request",
)
def inference_pending(request: HttpRequest) -> HttpResponse:
    """Claim the next request; `id` is null when there is none."""
    claimed = legacy.claim_inference(token=worker_token_of(request))
    if claimed is None:
        return json_answer({"id": None})
    return json_answer(
        {
            "id": str(claimed.pk),
            "series_id": claimed.main_series_id,
            "series_ids": claimed.series_ids,
        }
    )


@inference_router.post(
    "{request_id}/complete",
    response=answers({200: worker_schemas.Completed}, 400, 404, 409, 413, 422, 502),
    operation_id="inference_complete",
    summary="Deliver what the next request became",
)
def inference_complete(
    request: HttpRequest, request_id: str, body: worker_schemas.InferenceCompleteBody
) -> HttpResponse:
    """Take the end of a request."""
    values = body.model_dump()
    values["elapsed_time_seconds"] = values.pop("inference_time_seconds")
    return finish(worker_token_of(request), request_key(request_id), values)


def finish(token: ApiToken, key: UUID, body: Mapping[str, Any]) -> HttpResponse:
    """Take what an existing worker posts at the end, success or not."""
    report = LegacyReport(
        is_success=bool(body["success"]),
        seg_instance_id=body.get("seg_instance_id") or "",
        result={name: body[name] for name in RESULT_KEYS if body.get(name) is not None},
        error=body.get("error") or "",
    )
    outcome = legacy.finish(token=token, request_id=key, report=report)
    status = SegmentationRequest.objects.values_list("status", flat=True).get(pk=key)
    return json_answer({"request_id": str(key), "status": status, "outcome": outcome})

"""What there is to segment, how the site is, and the mask slice by slice."""

from __future__ import annotations

from typing import Annotated

from django.http import HttpRequest, HttpResponse
from ninja import Router
from pydantic import Field

from django_queue_app import frames, health, storing
from django_queue_app.api import schemas
from django_queue_app.api.auth import FRONT_END, caller_of, optional_caller
from django_queue_app.api.document import answers
from django_queue_app.api.encode import json_answer
from django_queue_app.api.errors import language_of
from django_queue_app.api.settings import least_worker_version
from django_queue_app.api.visibility import require_visible_mask
from django_queue_app.pacs import get_pacs

router = Router(auth=FRONT_END, tags=["front end"])

SegmentNumber = Annotated[int, Field(ge=1, le=65535)]


@router.get(
    "series/",
    response=answers({200: schemas.SeriesList}, 502),
    operation_id="list_series",
    summary="The series that can be segmented",
)
def list_series(request: HttpRequest) -> HttpResponse:  # noqa: ARG001
    """List the MR series that have images."""
    found = [
        {
            "id": one.id,
            "study_id": one.study_id,
            "patient_id": one.patient_id,
            "study_uid": one.study_uid,
            "series_uid": one.series_uid,
            "description": one.description,
            "modality": one.modality,
            "slices": one.slices,
            "sequence_type": one.sequence_type,
            "sequence_confidence": one.sequence_confidence,
        }
        for one in get_pacs().list_series()
        if one.modality == "MR" and one.slices > 0
    ]
    return json_answer({"count": len(found), "series": found})


@router.get(
    "instances/{seg_instance_id}/frames/",
    response=answers({200: schemas.Frames}, 404, 422, 502),
    operation_id="read_frames",
    summary="The mask as one PNG per source slice",
)
def read_frames(
    request: HttpRequest,
    seg_instance_id: str,
    segment: SegmentNumber | None = None,
) -> HttpResponse:
    """Give every slice of the main series, empty ones too, in their order along the normal."""
    require_visible_mask(caller_of(request), seg_instance_id)
    pictures = frames.frames(seg_instance_id, segment=segment)
    return json_answer({"num_frames": len(pictures), "frames": pictures})


@router.get(
    "health/",
    auth=None,
    response=answers({200: schemas.Health}, 401, 403, 429, guarded=False),
    operation_id="health",
    summary="What is up, and what is wrong in plain words",
)
def read_health(request: HttpRequest) -> HttpResponse:
    """Tell how the site is: everything to who is known, whether it is well to anybody."""
    storing.retry_in_background()
    report = health.look()
    caller = optional_caller(request)
    if caller is None:
        return json_answer(report.to_minimal_json())
    told = report.to_json(language_of(request)) | {"least_worker_version": least_worker_version()}
    if caller.token is not None and caller.is_worker:
        told["lane"] = caller.token.lane
    return json_answer(told)

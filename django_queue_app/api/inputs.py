"""The images that a worker fetches, pseudonymised as they are served."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from ninja import Router

from django_queue_app import served
from django_queue_app.api.attempts import find_request_held, request_key
from django_queue_app.api.auth import WORKER, worker_token_of
from django_queue_app.api.document import IF_NONE_MATCH, RANGE, answers, extra
from django_queue_app.api.errors import InstanceUnknown, RangeNotSatisfiable, error_response
from django_queue_app.api.headers import is_unchanged, read_range
from django_queue_app.api.inputs_gone import fail_for_good
from django_queue_app.models import SegmentationRequest
from django_queue_app.pacs import get_pacs

router = Router(auth=WORKER, tags=["worker"])

DICOM = "application/dicom"


@router.get(
    "requests/{request_id}/instances/{instance_id}",
    response=answers({200: None, 206: None, 304: None}, 422, 502, 404, 410, 412, 416),
    openapi_extra=extra(RANGE, IF_NONE_MATCH, files={200: DICOM, 206: DICOM}),
    operation_id="read_instance",
    summary="One input instance, pseudonymised",
)
def read_instance(request: HttpRequest, request_id: str, instance_id: str) -> HttpResponse:
    """Serve an instance of the request's series to the worker that holds the request."""
    token = worker_token_of(request)
    held = find_request_held(request_key(request_id), token)
    _require_input(held, instance_id)
    try:
        instance = served.read_served(instance_id)
    except (served.InputChanged, served.InputVanished) as error:
        fail_for_good(held, token, error)
        raise
    return bytes_answer(request, instance.data, sha256=instance.sha256)


def _require_input(held: SegmentationRequest, instance_id: str) -> None:
    if get_pacs().series_of_instance(instance_id) not in held.series_ids:
        raise InstanceUnknown


def bytes_answer(request: HttpRequest, data: bytes, *, sha256: str) -> HttpResponse:
    """Answer with the bytes or the part that was asked for (RFC 9110, 13 and 14)."""
    etag = f'"{sha256}"'
    if is_unchanged(request, etag):
        return _with_headers(HttpResponse(status=304), etag)
    part = read_range(request, size=len(data), etag=etag)
    if part is None:
        return _with_headers(HttpResponse(data, content_type=DICOM), etag)
    if part.start >= part.stop:
        refusal = error_response(request, RangeNotSatisfiable())
        refusal["Content-Range"] = f"bytes */{len(data)}"
        return refusal
    response = HttpResponse(data[part.start : part.stop], status=206, content_type=DICOM)
    response["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(data)}"
    return _with_headers(response, etag)


def _with_headers(response: HttpResponse, etag: str) -> HttpResponse:
    response["ETag"] = etag
    response["Accept-Ranges"] = "bytes"
    response["Cache-Control"] = "no-store"
    if response.status_code == 304:
        del response["Content-Type"]
    else:
        response["Content-Length"] = str(len(response.content))
    return response

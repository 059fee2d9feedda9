"""The images that a worker fetches, pseudonymised as they are served."""

from __future__ import annotations

import io
import tarfile
import time

from django.http import HttpRequest, HttpResponse
from ninja import Router

from django_queue_app import served
from django_queue_app.api import worker_schemas
from django_queue_app.api.attempts import find_request_held, request_key
from django_queue_app.api.auth import WORKER, worker_token_of
from django_queue_app.api.document import IF_NONE_MATCH, RANGE, answers, extra
from django_queue_app.api.errors import InstanceUnknown, RangeNotSatisfiable, error_response
from django_queue_app.api.headers import is_unchanged, read_range
from django_queue_app.api.inputs_gone import fail_for_good
from django_queue_app.models import ApiToken, SegmentationRequest
from django_queue_app.pacs import get_pacs

router = Router(auth=WORKER, tags=["worker"])

DICOM = "application/dicom"
TAR = "application/x-tar"
# An answer ends with the instance that reaches one of these: it lies in memory until it is sent,
# and the worker waits for its first byte while an archive is asked for each.
MOST_BATCH_BYTES = 8_000_000
MOST_BATCH_S = 5.0


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
    instance = _read(held, instance_id, token)
    return bytes_answer(request, instance.data, sha256=instance.sha256)


@router.post(
    "requests/{request_id}/instances/",
    response=answers({200: None}, 502, 400, 404, 410, 412, 413, 422),
    openapi_extra=extra(files={200: TAR}),
    operation_id="read_instances",
    summary="Several input instances in one answer, pseudonymised",
)
def read_instances(
    request: HttpRequest, request_id: str, body: worker_schemas.InstancesBody
) -> HttpResponse:
    """Serve instances as a tar archive, each under its id; what did not fit is asked for again."""
    token = worker_token_of(request)
    held = find_request_held(request_key(request_id), token)
    end = time.monotonic() + MOST_BATCH_S
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for instance_id in dict.fromkeys(body.instance_ids):
            data = _read(held, instance_id, token).data
            member = tarfile.TarInfo(instance_id)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            if archive.tell() >= MOST_BATCH_BYTES or time.monotonic() > end:
                break
    response = HttpResponse(archive.getvalue(), content_type=TAR)
    response["Cache-Control"] = "no-store"
    return response


def _read(held: SegmentationRequest, instance_id: str, token: ApiToken) -> served.ServedInstance:
    _require_input(held, instance_id)
    try:
        return served.read_served(instance_id)
    except (served.InputChanged, served.InputVanished) as error:
        fail_for_good(held, token, error)
        raise


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

"""What the viewer needs beside the public API: the images themselves."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_GET

from django_queue_app import slices, volumes
from django_queue_app.errors import ServiceError
from django_queue_app.pages.guard import sentence_of, signed_in


@signed_in
@require_GET
def grid(request: HttpRequest, series_id: str) -> HttpResponse:  # noqa: ARG001
    """Say how many slices a series has and which way they lie."""
    try:
        return JsonResponse({"success": True, **slices.describe_slices(series_id).to_json()})
    except ServiceError as error:
        return _refusal(error)


@signed_in
@require_GET
def slice_picture(
    request: HttpRequest,  # noqa: ARG001
    series_id: str,
    index: int,
) -> HttpResponse:
    """Give one slice as PNG."""
    try:
        picture = slices.render_slice(series_id, index)
    except ServiceError as error:
        return _refusal(error)
    return HttpResponse(picture, content_type="image/png")


@signed_in
@require_GET
def volume(request: HttpRequest, series_id: str) -> HttpResponse:  # noqa: ARG001
    """Give a whole series as NIfTI."""
    try:
        data = volumes.read_volume(series_id)
    except ServiceError as error:
        return _refusal(error)
    return HttpResponse(data, content_type="application/gzip")


def _refusal(error: ServiceError) -> HttpResponse:
    body = {"success": False, "code": error.code, "error": sentence_of(error)}
    return JsonResponse(body, status=error.http_status)

"""The API's addresses; mount with `path("api/", include("django_queue_app.api.urls"))`.

Whatever lies under it is answered in JSON: unknown addresses and methods too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.urls import URLPattern, URLResolver, path, re_path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe

from django_queue_app.api import (
    artifacts,
    claims,
    dicom,
    events,
    existing,
    frontend,
    inputs,
    leases,
    overview,
    uploads,
)
from django_queue_app.api.errors import (
    BY_STATUS,
    MethodNotAllowed,
    NotFound,
    Unexpected,
    error_response,
)
from django_queue_app.api.site import api

View = Callable[..., HttpResponseBase]

SEGMENTATION = "/mri/segmentation/"
for _module in (frontend, events, artifacts, overview, claims, leases, inputs, uploads):
    api.add_router(SEGMENTATION, _module.router)
api.add_router(SEGMENTATION, existing.router)
api.add_router("/inference/", existing.inference_router)
api.add_router("/mri/dicom/", dicom.router)


def answers_in_json(view: View) -> View:
    """Turn an error page of Django or ninja (405 above all) into the API's own body."""

    @wraps(view)
    def answering(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            response = view(request, *args, **kwargs)
        except Http404:
            return error_response(request, NotFound())
        content_type = response.get("Content-Type", "")
        if response.status_code < 400 or content_type.startswith("application/json"):
            return response
        error = BY_STATUS.get(response.status_code, Unexpected)()
        answer = error_response(request, error)
        if isinstance(error, MethodNotAllowed) and "Allow" in response:
            answer["Allow"] = response["Allow"]
        return answer

    return csrf_exempt(answering)  # `api.auth` looks after cross-site calls itself


@csrf_exempt
def unknown_address(request: HttpRequest) -> HttpResponse:
    """Answer 404."""
    return error_response(request, NotFound())


def _in_json(patterns: list[URLPattern | URLResolver]) -> list[URLPattern | URLResolver]:
    for pattern in patterns:
        if isinstance(pattern, URLPattern):
            view = pattern.callback
            # ninja's view of the document takes every method.
            is_document = pattern.name == "openapi-json"
            pattern.callback = answers_in_json(require_safe(view) if is_document else view)
    return patterns


_patterns, _app_name, _namespace = api.urls
urlpatterns = [
    path("", (_in_json(list(_patterns)), _app_name, _namespace)),
    re_path(r"^.*$", unknown_address),
]

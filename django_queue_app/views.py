"""The study page and what its viewer needs beside the public API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView, LogoutView
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.utils.decorators import method_decorator
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from django_queue_app import slices
from django_queue_app.errors import ServiceError
from django_queue_app.pacs import get_pacs
from django_queue_app.pacs.port import (
    InstanceNotFound,
    PacsUnavailable,
    SeriesNotFound,
    SeriesSummary,
)

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

View = Callable[..., HttpResponseBase]


def page(view: View) -> View:
    """Keep a page out of caches and let it load nothing from elsewhere."""

    @never_cache
    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = view(request, *args, **kwargs)
        response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response["Cache-Control"] = "no-store"
        return response

    return guarded


@method_decorator(page, name="dispatch")
class SignIn(LoginView):
    """Sign in with a Django user."""

    template_name = "django_queue_app/login.html"
    next_page = "segmentation-study"
    redirect_authenticated_user = True


@method_decorator(page, name="dispatch")
class SignOut(LogoutView):
    """Sign out and show the way in."""

    next_page = "segmentation-login"


@page
@login_required(login_url="segmentation-login")
@require_GET
def study(request: HttpRequest) -> HttpResponse:
    """Show the series by patient and study, and the request that was asked for."""
    problem, studies = "", []
    try:
        studies = group_by_study(get_pacs().list_series())
    except PacsUnavailable as error:
        problem = _sentence(error)
    return render(
        request,
        "django_queue_app/study.html",
        {"studies": studies, "problem": problem, "words": _words()},
    )


def group_by_study(series: Sequence[SeriesSummary]) -> list[dict[str, Any]]:
    """Group the MR series by study, each study's series by number."""
    studies: dict[str, dict[str, Any]] = {}
    for item in sorted(series, key=lambda one: (one.study_id, one.series_number or 0)):
        if item.modality != "MR":
            continue
        entry = studies.setdefault(
            item.study_id,
            {
                "id": item.study_id,
                "patient_name": str(item.patient_name or "").replace("^", " "),
                "patient_dicom_id": item.patient_dicom_id,
                "date": item.study_date,
                "description": item.study_description,
                "series": [],
            },
        )
        entry["series"].append(item)
    return list(studies.values())


@page
@login_required(login_url="segmentation-login")
@require_GET
def viewer_grid(request: HttpRequest, series_id: str) -> JsonResponse:  # noqa: ARG001
    """Say how many slices a series has and which way they lie."""
    try:
        return JsonResponse({"success": True, **slices.describe_slices(series_id).to_json()})
    except SeriesNotFound as error:
        return JsonResponse(
            {"success": False, "code": error.code, "error": _sentence(error)}, status=404
        )


@page
@login_required(login_url="segmentation-login")
@require_GET
def viewer_slice(
    request: HttpRequest,  # noqa: ARG001
    series_id: str,
    index: int,
) -> HttpResponse:
    """Give one slice as PNG."""
    try:
        return HttpResponse(slices.render_slice(series_id, index), content_type="image/png")
    except (SeriesNotFound, InstanceNotFound) as error:
        return HttpResponse(_sentence(error), status=404, content_type="text/plain; charset=utf-8")


def _sentence(error: ServiceError) -> str:
    return error.message_in(get_language() or "")


def _words() -> dict[str, str]:
    return {
        "sending": _("Sending the request…"),
        "pending": _("Waiting for a worker"),
        "place": _("Place %s in the queue"),
        "processing": _("Being worked on"),
        "downloading": _("The worker fetches the images"),
        "loading": _("The images are being read"),
        "inferring": _("The network is at work"),
        "writing": _("The mask is being written"),
        "uploading": _("The mask is on its way back"),
        "completed": _("Done"),
        "nothing_found": _("Done: the model found no lesion"),
        "failed": _("It did not work"),
        "cancelled": _("Cancelled"),
        "unreachable": _("The server does not answer; trying again."),
        "research": _("for research use only"),
    }

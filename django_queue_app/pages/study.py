"""The study page: what there is, by patient and study, and the request that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from django_queue_app.pacs import get_pacs
from django_queue_app.pacs.port import PacsUnavailable, SeriesSummary
from django_queue_app.pages.guard import sentence_of, signed_in


@signed_in
@require_GET
def study(request: HttpRequest) -> HttpResponse:
    """Show the series by patient and study, and the request that was asked for."""
    problem, studies = "", []
    try:
        studies = group_by_study(get_pacs().list_series())
    except PacsUnavailable as error:
        problem = sentence_of(error)
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

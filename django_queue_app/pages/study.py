"""The study page: what there is, by patient and study, and the request that was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from django_queue_app import health
from django_queue_app.conf import conf
from django_queue_app.models import SegmentationRequest
from django_queue_app.pacs import get_pacs
from django_queue_app.pacs.port import PacsUnavailable, SeriesSummary
from django_queue_app.pages.guard import sentence_of, signed_in
from django_queue_app.pages.words import study_words

# How many earlier analyses of a study are listed; the queue page has them all.
EARLIER = 5


@signed_in
@require_GET
def study(request: HttpRequest) -> HttpResponse:
    """Show the series by patient and study, and the request that was asked for."""
    problem, studies = "", []
    try:
        studies = group_by_study(get_pacs().list_series())
    except PacsUnavailable as error:
        problem = sentence_of(error)
    _add_earlier(studies)
    return render(
        request,
        "django_queue_app/study.html",
        {
            "studies": studies,
            "problem": problem,
            "models": models_on_offer(),
            "words": study_words(),
        },
    )


def group_by_study(series: Sequence[SeriesSummary]) -> list[dict[str, Any]]:
    """Group the MR series by study, each study's series by number, the newest study first."""
    studies: dict[str, dict[str, Any]] = {}
    for item in sorted(series, key=lambda one: (one.study_id, one.series_number or 0)):
        if item.modality != "MR":
            continue
        entry = studies.setdefault(
            item.study_id,
            {
                "id": item.study_id,
                "patient_name": item.patient_name,
                "patient_dicom_id": item.patient_dicom_id,
                "date": date_of(item.study_date),
                "description": item.study_description,
                "series": [],
            },
        )
        entry["series"].append(item)
    return sorted(studies.values(), key=lambda one: one["date"] or date.min, reverse=True)


def date_of(text: str) -> date | None:
    """Read a DICOM date (DA, YYYYMMDD); None where it is none."""
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    except ValueError:
        return None


def models_on_offer() -> list[str]:
    """List the models of the workers that are online in the lane that requests go to."""
    online = health.workers_online(timezone.now())
    lane = conf.default_lane
    return sorted({name for one in online if one["lane"] == lane for name in one["models"]})


def _add_earlier(studies: Iterable[dict[str, Any]]) -> None:
    """Give each study its latest analyses."""
    for entry in studies:
        ids = [one.id for one in entry["series"]]
        rows = SegmentationRequest.objects.filter(main_series_id__in=ids)
        entry["earlier"] = list(rows.order_by("-created_at", "-id")[:EARLIER])

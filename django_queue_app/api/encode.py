"""Requests as the bodies of CONTRACT 2.1, and answers with their headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.http import HttpResponse
from django.urls import reverse
from django.utils import timezone

from django_queue_app import estimates, storing
from django_queue_app.api.errors import JSON_CONTENT_TYPE, dump_json
from django_queue_app.conf import conf
from django_queue_app.models import SegmentationRequest
from django_queue_app.states import Status

ARTIFACT_NAMES = ("mask.dcm", "mask.nii.gz", "preview.png", "report.json", "report.html")


def json_answer(
    body: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> HttpResponse:
    """Encode an answer; nothing of this API may be kept by a cache on the way."""
    response = HttpResponse(
        dump_json({"success": True, **body}), status=status, content_type=JSON_CONTENT_TYPE
    )
    response["Cache-Control"] = "no-store"
    for name, value in (headers or {}).items():
        response[name] = value
    return response


def status_url(request: SegmentationRequest) -> str:
    """Give the address of a request's status."""
    return reverse("segmentation-api:request-status", kwargs={"request_id": str(request.pk)})


def result_of(request: SegmentationRequest, language: str = "en") -> dict[str, Any]:
    """Give the answer of a completed request; its warnings in the caller's language."""
    found = dict(request.result or {})
    model = found.get("model") or {}
    saved = request.is_saved_to_pacs
    return {
        "success": True,
        "request_id": str(request.pk),
        "series_id": request.main_series_id,
        "status": request.status,
        "tumor_detected": bool(found.get("tumor_detected")),
        "tumor_volume_voxels": int(found.get("tumor_volume_voxels") or 0),
        "tumor_volume_ml": found.get("tumor_volume_ml"),
        "segments": found.get("segments") or [],
        "seg_instance_id": request.seg_instance_id or None,
        "saved_to_pacs": saved,
        "saved_to_orthanc": saved,
        "elapsed_time_seconds": found.get("elapsed_time_seconds"),
        "total_slices": found.get("total_slices"),
        "start_slice_index": found.get("start_slice_index"),
        "end_slice_index": found.get("end_slice_index"),
        "processed_by": request.processed_by,
        "model": {key: str(model.get(key) or "") for key in ("name", "version", "sha256")},
        "inputs": found.get("inputs") or [],
        "warnings": [*_found_warnings(found, language), *_store_warnings(request, language)],
    }


def _found_warnings(found: Mapping[str, Any], language: str) -> list[str]:
    """Give the worker's warnings, in Korean if it said each of them so."""
    warnings: list[str] = found.get("warnings") or []
    korean: list[str] = found.get("warnings_ko") or []
    return korean if language == "ko" and len(korean) == len(warnings) else warnings


def _store_warnings(request: SegmentationRequest, language: str) -> list[str]:
    if not storing.is_refused(request):
        return []
    if language == "ko":
        return [
            f"영상 저장소가 이 마스크를 거부하여({request.store_failure_code}) 이 사이트에만 "
            "보관합니다. 마스크를 다운로드하고 영상 저장소 관리자에게 허용을 요청하십시오."
        ]
    return [
        f"The image archive refuses this mask ({request.store_failure_code}), so it is kept on "
        "this site only; download it, and ask who operates the archive to accept it."
    ]


def filed(request: SegmentationRequest, *, is_deduplicated: bool) -> dict[str, Any]:
    """Give the answer to a call whose request goes on."""
    return {
        "request_id": str(request.pk),
        "series_id": request.main_series_id,
        "status": request.status,
        "lane": request.lane,
        "deduplicated": is_deduplicated,
        "status_url": status_url(request),
    }


def failure_of(request: SegmentationRequest, language: str = "en") -> dict[str, str] | None:
    """Give why a request failed, in the caller's language."""
    if request.status != Status.FAILED:
        return None
    return {"code": request.failure_code, "message": request.failure_in(language)}


def summary_of(request: SegmentationRequest, language: str = "en") -> dict[str, Any]:
    """Give a request as the list shows it."""
    found = request.result or {}
    return {
        "request_id": str(request.pk),
        "series_id": request.main_series_id,
        "main_series_id": request.main_series_id,
        "series_ids": request.series_ids,
        "order": request.order,
        "status": request.status,
        "lane": request.lane,
        "model": request.model,
        "priority": request.priority,
        "stage": request.stage or None,
        "progress": request.progress,
        "attempts": request.attempt_count,
        "max_attempts": conf.max_attempts,
        "requested_at": request.created_at.isoformat(),
        "requested_by": request.requested_by,
        "started_at": _time(request.started_at),
        "finished_at": _time(request.finished_at),
        "processed_by": request.processed_by,
        "retry_of": str(request.retry_of_id) if request.retry_of_id else None,
        "seg_instance_id": request.seg_instance_id or None,
        "tumor_detected": found.get("tumor_detected"),
        "failure": failure_of(request, language),
        "status_url": status_url(request),
    }


def status_of(request: SegmentationRequest, language: str = "en") -> dict[str, Any]:
    """Give everything that may be told about one request."""
    is_completed = request.status == Status.COMPLETED
    is_open = request.status in (Status.PENDING, Status.PROCESSING)
    return {
        **summary_of(request, language),
        "place_in_queue": place_in_queue(request),
        "elapsed_seconds": round(estimates.elapsed_s(request, timezone.now()), 1),
        "expected_seconds": estimates.expected_s(request) if is_open else None,
        "result": result_of(request, language) if is_completed else None,
        "artifacts": [
            {"name": artifact.name, "url": artifact_url(request, artifact.name)}
            for artifact in request.visible_artifacts().order_by("name")
        ],
    }


def artifact_url(request: SegmentationRequest, name: str) -> str:
    """Give the address of one result file."""
    return reverse(
        "segmentation-api:artifact-" + name.replace(".", "-"),
        kwargs={"request_id": str(request.pk)},
    )


def place_in_queue(request: SegmentationRequest) -> int | None:
    """Count how many pending requests of the lane are served before this one, from 1."""
    if request.status != Status.PENDING:
        return None
    pending = SegmentationRequest.objects.filter(status=Status.PENDING, lane=request.lane)
    before = pending.filter(priority__gt=request.priority).count()
    same = pending.filter(priority=request.priority)
    before += same.filter(created_at__lt=request.created_at).count()
    before += same.filter(created_at=request.created_at, id__lt=request.pk).count()
    return before + 1


def _time(moment: Any) -> str | None:
    return moment.isoformat() if moment is not None else None

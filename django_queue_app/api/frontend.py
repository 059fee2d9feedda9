"""What a front end files, follows, cancels and tries again (CONTRACT 2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from django.utils.dateparse import parse_datetime
from django.utils.timezone import is_naive
from ninja import Query, Router
from pydantic import BeforeValidator, Field

from django_queue_app import services
from django_queue_app.api import schemas
from django_queue_app.api.auth import FRONT_END, Caller, caller_of
from django_queue_app.api.document import PREFER, answers, extra
from django_queue_app.api.encode import json_answer, status_of, summary_of
from django_queue_app.api.errors import BodyInvalid, SeriesUnusable, language_of
from django_queue_app.api.headers import parse_uuid, read_prefer
from django_queue_app.api.visibility import (
    find_request,
    older_than,
    visible_requests,
)
from django_queue_app.api.waiting import (
    accepted,
    answer_after_wait,
    replay_of,
    request_under_wait,
)
from django_queue_app.conf import conf
from django_queue_app.pacs import get_pacs
from django_queue_app.querysets import RequestQuerySet
from django_queue_app.services import Filed
from django_queue_app.states import Lane, Order

router = Router(auth=FRONT_END, tags=["front end"])

MOST_PER_PAGE = 200
DEFAULT_PER_PAGE = 50

_SEGMENT_ANSWERS = answers(
    {
        200: schemas.Result,
        202: schemas.Filed,
        409: schemas.WaitError,
        502: schemas.WaitError,
        504: schemas.WaitError,
    },
    *(400, 404, 413, 422),
)

UseLocal = Annotated[
    bool | None, Query(description="The lab lane (true) or the cloud lane (false).")
]
ForceGcp = Annotated[bool | None, Query(description="The cloud lane; same as use_local=false.")]


@router.post(
    "series/{series_id}/segment/",
    response=_SEGMENT_ANSWERS,
    openapi_extra=extra(PREFER),
    operation_id="segment_series",
    summary="File a request and wait for its result",
)
def segment_series(
    request: HttpRequest,
    series_id: str,
    body: schemas.SegmentBody | None = None,
    use_local: UseLocal = None,
    force_gcp: ForceGcp = None,
) -> HttpResponse:
    """File a request; 200 with the result, 202 if the caller prefers not to wait so long."""
    body = body or schemas.SegmentBody()
    lane = _lane(use_local=use_local, force_gcp=force_gcp)
    return _segment(request, series_id, body.sequence_series_ids, body, lane)


@router.post(
    "series/{series_id}/request-local/",
    response=answers({202: schemas.Filed}, 400, 404, 413, 422, 502),
    operation_id="request_local",
    summary="File a request for the lab lane and don't wait",
)
def request_local(
    request: HttpRequest, series_id: str, body: schemas.SegmentBody | None = None
) -> HttpResponse:
    """File a request for the lab lane."""
    body = body or schemas.SegmentBody()
    filed = _file(caller_of(request), series_id, body.sequence_series_ids, body, Lane.LAB)
    return accepted(filed.request, is_deduplicated=filed.is_deduplicated)


@router.post(
    "instances/{instance_id}/segment/",
    response=_SEGMENT_ANSWERS,
    openapi_extra=extra(PREFER),
    operation_id="segment_instances",
    summary="File a request by one instance of each series",
)
def segment_instances(
    request: HttpRequest,
    instance_id: str,
    body: schemas.SegmentInstancesBody | None = None,
    use_local: UseLocal = None,
    force_gcp: ForceGcp = None,
) -> HttpResponse:
    """File a request for the series that hold these instances."""
    body = body or schemas.SegmentInstancesBody()
    lane = _lane(use_local=use_local, force_gcp=force_gcp)
    pacs = get_pacs()
    main = pacs.series_of_instance(instance_id)
    series_ids = [pacs.series_of_instance(one) for one in body.sequence_instance_ids or []]
    return _segment(request, main, series_ids, body, lane)


Options = schemas.SegmentBody | schemas.SegmentInstancesBody


def _segment(
    request: HttpRequest,
    main_series_id: str,
    series_ids: Sequence[str] | None,
    options: Options,
    lane: Lane,
) -> HttpResponse:
    """File on the first pass, answer on every pass."""
    prefer = read_prefer(request)
    waited_for = request_under_wait(request)
    if waited_for is not None:
        replay = replay_of(request)
        is_again = replay is not None and replay.is_deduplicated
        return answer_after_wait(request, waited_for, prefer=prefer, is_deduplicated=is_again)
    filed = _file(caller_of(request), main_series_id, series_ids, options, lane)
    return answer_after_wait(
        request, filed.request, prefer=prefer, is_deduplicated=filed.is_deduplicated
    )


def _file(
    caller: Caller,
    main_series_id: str,
    series_ids: Sequence[str] | None,
    options: Options,
    lane: Lane,
) -> Filed:
    ordered = list(series_ids or [main_series_id])
    _require_usable(dict.fromkeys([main_series_id, *ordered]))
    return services.file_request(
        main_series_id=main_series_id,
        series_ids=ordered,
        lane=lane,
        model=options.model or "",
        order=options.order or Order.GIVEN,
        priority=options.priority or 0,
        is_forced=bool(options.force),
        requested_by=caller.name,
        user=caller.user,
    )


def _require_usable(series_ids: dict[str, None]) -> None:
    """Refuse, before anything is filed, what no worker could segment."""
    pacs = get_pacs()
    for series_id in series_ids:
        series = pacs.describe_series(series_id)
        if series.summary.modality != "MR":
            raise SeriesUnusable(
                f"The series {series_id} is not MR; choose MR series.",
                f"시리즈 {series_id}은(는) MR이 아닙니다. MR 시리즈를 선택하십시오.",
                code="not_mr",
            )
        if not series.instances or series.summary.slices < 1:
            raise SeriesUnusable(
                f"The series {series_id} has no images; import it again.",
                f"시리즈 {series_id}에 영상이 없습니다. 다시 가져오십시오.",
                code="empty_series",
            )


def _lane(*, use_local: bool | None, force_gcp: bool | None) -> Lane:
    if force_gcp and use_local:
        raise BodyInvalid(
            "use_local=true and force_gcp=true contradict each other; send one of them.",
            "use_local=true와 force_gcp=true는 함께 쓸 수 없습니다. 하나만 보내십시오.",
        )
    if force_gcp:
        return Lane.CLOUD
    if use_local is None:
        return conf.default_lane
    return Lane.LAB if use_local else Lane.CLOUD


# --- following ------------------------------------------------------------------------------------
@router.get(
    "status/{request_id}/",
    response=answers({200: schemas.RequestStatus}, 404),
    operation_id="request_status",
    url_name="request-status",
    summary="State, stage, progress, attempts, result, failure",
)
def request_status(request: HttpRequest, request_id: str) -> HttpResponse:
    """Tell how a request stands."""
    found = find_request(caller_of(request), request_id)
    return json_answer(status_of(found, language_of(request)))


def _unless_empty(value: Any) -> Any:
    """Take `?status=` for no status, as pages that fill in a pattern send it."""
    return None if value == "" else value


@router.get(
    "requests/",
    response=answers({200: schemas.RequestPage}, 404, 422),
    operation_id="list_requests",
    summary="Requests, newest first",
)
def list_requests(
    request: HttpRequest,
    status: Annotated[schemas.StatusName | None, BeforeValidator(_unless_empty)] = None,
    limit: Annotated[int | None, Field(ge=1, le=MOST_PER_PAGE), BeforeValidator(_unless_empty)] = (
        DEFAULT_PER_PAGE
    ),
    before: schemas.Id | None = None,
) -> HttpResponse:
    """List requests; `before` is the `next` of the page before, or a time."""
    limit = limit or DEFAULT_PER_PAGE
    caller = caller_of(request)
    rows = visible_requests(caller)
    if status is not None:
        rows = rows.filter(status=status)
    if before:
        rows = _before(caller, rows, before)
    found = list(rows.newest_first()[: limit + 1])
    page = found[:limit]
    return json_answer(
        {
            "count": len(page),
            "requests": [summary_of(one, language_of(request)) for one in page],
            "next": str(page[-1].pk) if len(found) > limit else None,
        }
    )


def _before(caller: Caller, rows: RequestQuerySet, before: str) -> RequestQuerySet:
    moment = _time_from(before)
    if moment is not None:
        return rows.filter(created_at__lt=moment)
    if parse_uuid(before) is None:
        raise BodyInvalid(
            "before: expected a request's id or a time with its zone.",
            "before: 요청 ID 또는 시간대가 있는 시각이어야 합니다.",
        )
    last = find_request(caller, before)
    return older_than(rows, last)


def _time_from(text: str) -> datetime | None:
    try:
        moment = parse_datetime(text.replace(" ", "+"))
    except (ValueError, OverflowError):
        return None
    if moment is None or is_naive(moment) or not 1900 < moment.year < 9000:
        return None  # the first and last years overflow when a database turns them into UTC
    return moment


@router.post(
    "requests/{request_id}/cancel/",
    response=answers({200: schemas.Changed}, 404, 409),
    operation_id="cancel_request",
    summary="Cancel a pending or processing request",
)
def cancel_request(request: HttpRequest, request_id: str) -> HttpResponse:
    """Cancel."""
    caller = caller_of(request)
    found = find_request(caller, request_id)
    cancelled = services.cancel(request_id=found.pk, actor=caller.name)
    return json_answer({"request_id": str(cancelled.pk), "status": cancelled.status})


@router.post(
    "requests/{request_id}/retry/",
    response=answers({202: schemas.Filed}, 404, 409, 422),
    operation_id="retry_request",
    summary="File a failed or cancelled request anew",
)
def retry_request(request: HttpRequest, request_id: str) -> HttpResponse:
    """File it anew; the answer names the new request."""
    caller = caller_of(request)
    found = find_request(caller, request_id)
    again = services.retry(request_id=found.pk, actor=caller.name, user=caller.user)
    return accepted(again, is_deduplicated=again.retry_of_id != found.pk)

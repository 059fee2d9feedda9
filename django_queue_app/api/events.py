"""A request followed as Server-Sent Events (CONTRACT 2.1).

The view tells what there is to tell now; the ASGI wrapper keeps the stream open and asks again at
each change. Under WSGI the answer ends there, and the client comes back after `retry` with the id
of the last event it saw, as it does after any interruption.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from django.db.models import F
from django.http import HttpRequest, HttpResponse
from ninja import Router

from django_queue_app.api.auth import FRONT_END, caller_of
from django_queue_app.api.document import LAST_EVENT_ID, answers, extra
from django_queue_app.api.encode import status_of
from django_queue_app.api.errors import language_of
from django_queue_app.api.visibility import find_request
from django_queue_app.api.waiting import replay_of
from django_queue_app.hold_header import HOLD_HEADER, Hold
from django_queue_app.models import Event, SegmentationRequest
from django_queue_app.states import FINISHED
from django_queue_app.wakeup import ChangeWish

router = Router(auth=FRONT_END, tags=["front end"])

EVENT_STREAM = "text/event-stream"
RETRY_MS = 2000
# Nobody follows for longer; a client that does comes back with its last id.
LONGEST_STREAM_S = 3600.0
# The number of the change in the history and, while a worker is at it, how far it had come.
_ID = re.compile(r"(\d{1,18})(?:-([a-z]+-[0-9.]+))?")


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """The last event that a client has seen: a change's number, and stage and progress."""

    number: int
    progress: str = ""

    def __str__(self) -> str:
        return f"{self.number}-{self.progress}" if self.progress else str(self.number)


@router.get(
    "requests/{request_id}/events/",
    response=answers({200: None}, 404),
    openapi_extra=extra(LAST_EVENT_ID, files={200: EVENT_STREAM}),
    operation_id="follow_request",
    summary="One event at each change, until the request has ended",
)
def follow_request(request: HttpRequest, request_id: str) -> HttpResponse:
    """Tell the request's state, and each change from now on or from `Last-Event-ID`."""
    replay = replay_of(request)
    told = replay.last_event if replay is not None else None
    found = find_request(caller_of(request), request_id)
    seen = _read_id(request.headers.get("Last-Event-ID", "") if told is None else told)
    body, last = _news(found, seen, language_of(request))
    if told is None:
        body = f"retry: {RETRY_MS}\n\n{body}"
    response = HttpResponse(body, content_type=EVENT_STREAM)
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"  # nginx would collect the events
    if replay is not None and found.status not in FINISHED:
        wish = ChangeWish(request_id=found.pk, seen=found.updated_at)
        hold = Hold(wait_s=LONGEST_STREAM_S, wish=wish, last_event=str(last))
        response[HOLD_HEADER] = hold.to_header()
    return response


def _read_id(text: str) -> _Seen | None:
    match = _ID.fullmatch(text.strip())
    return _Seen(number=int(match[1]), progress=match[2] or "") if match else None


def _news(found: SegmentationRequest, seen: _Seen | None, language: str) -> tuple[str, _Seen]:
    """Give the events after `seen`; without it, the state as it is now."""
    rows = list(found.events.exclude(from_status=F("to_status")).order_by("id"))
    last = rows[-1]
    if last.to_status != found.status:
        found.refresh_from_db()  # it changed since it was read
    now = _Seen(number=last.pk, progress=_progress_of(found))
    if seen is None or seen.number > last.pk:
        rows = [last]
    else:
        rows = [row for row in rows if row.pk > seen.number]
    if not rows and seen != now and now.progress:
        rows = [last]
    parts = [_past(row) for row in rows[:-1]]
    if rows:
        parts.append(_encode(now, {**status_of(found, language), "reason": last.reason}))
    return "".join(parts), now


def _progress_of(found: SegmentationRequest) -> str:
    return f"{found.stage}-{found.progress:.4g}" if found.stage else ""


def _past(row: Event) -> str:
    """Encode a change that others have followed: what was told of it then is not kept."""
    body = {"success": True, "request_id": str(row.request_id), "status": row.to_status}
    return _encode(_Seen(number=row.pk), {**body, "reason": row.reason})


def _encode(event_id: _Seen, body: dict[str, Any]) -> str:
    # JSON has no line breaks of its own, so one data line is enough.
    data = json.dumps({"success": True, **body}, ensure_ascii=True, default=str)
    return f"event: status\nid: {event_id}\ndata: {data}\n\n"

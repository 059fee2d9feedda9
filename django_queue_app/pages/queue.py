"""The queue page: what waits, what runs, who works, what failed and why, and how it went before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from django_queue_app import health, services
from django_queue_app.api.auth import Caller
from django_queue_app.api.headers import parse_uuid
from django_queue_app.api.visibility import find_request, older_than, visible_requests
from django_queue_app.conf import conf
from django_queue_app.errors import ServiceError
from django_queue_app.models import (
    PRIORITY_MAX,
    PRIORITY_MIN,
    Attempt,
    SegmentationRequest,
    Series,
    Worker,
)
from django_queue_app.pacs import get_pacs
from django_queue_app.pages import failures, history
from django_queue_app.pages.guard import sentence_of, signed_in
from django_queue_app.querysets import RequestQuerySet
from django_queue_app.states import ACTIVE, Lane, Status
from django_queue_app.templatetags.segmentation_words import duration
from django_queue_app.text import clean_text

ROWS = 25
PRIORITY_STEP = 10
# A worker that was not heard of for this long is no longer shown.
FORGOTTEN_AFTER = timedelta(days=7)
# A filter's text goes into an address; a person types a word.
MOST_TEXT = 100
_CHART = {"width": 600.0, "height": 100.0}


@signed_in
@require_GET
def queue(request: HttpRequest) -> HttpResponse:
    """Show the queue; `?fragment=1` gives only the part that changes by itself."""
    now = timezone.now()
    context = {
        **_requests(request, now),
        **_health(now),
        "workers": _workers(request, now),
        "may_operate": _may_operate(request),
        "most_attempts": conf.max_attempts,
        "now": now,
    }
    if request.GET.get("fragment"):
        return render(request, "django_queue_app/queue_live.html", context)
    context |= {
        **_charts(request, now),
        "statuses": Status.choices,
        "lanes": Lane.choices,
        "words": queue_words(),
    }
    return render(request, "django_queue_app/queue.html", context)


def queue_words() -> dict[str, str]:
    """Give the words of the page's script; `{name}` is filled in by it."""
    return {
        "updated": _("As of {time}; renewed by itself."),
        "held": _("Not renewed while you are in the list."),
        "unreachable": _("The site does not answer; this is how it was at {time}. Trying again."),
        "signed_out": _("You are signed out. Load the page again and sign in."),
        "no_problem": _("All is well again."),
    }


def _requests(request: HttpRequest, now: datetime) -> dict[str, Any]:
    rows = _visible(request).newest_first()
    status = _chosen(request, "status", ["active", *Status.values])
    lane = _chosen(request, "lane", Lane.values)
    text = clean_text(request.GET.get("text", ""), MOST_TEXT)
    if status == "active":
        rows = rows.filter(status__in=ACTIVE)
    elif status:
        rows = rows.filter(status=status)
    if lane:
        rows = rows.filter(lane=lane)
    if text:
        rows = rows.containing(text)
    last = parse_uuid(request.GET.get("before", ""))
    found = _visible(request).filter(pk=last).first() if last else None
    if found is not None:
        rows = older_than(rows, found)
    found_rows: list[Any] = list(rows[: ROWS + 1])
    shown = found_rows[:ROWS]
    _add_series(shown)
    language = (get_language() or "en")[:2]
    for row in shown:
        _add_times(row, now)
        row.failure_title = failures.title_of(row.failure_code)
        row.failure_sentence = row.failure_in(language)
    chosen = {"status": status, "lane": lane, "text": text}
    chosen = {name: value for name, value in chosen.items() if value}
    span = _chosen(request, "span", list(history.SPANS))
    kept = {**chosen, "span": span} if span else chosen
    here = {"before": str(last)} if last else {}
    return {
        "rows": shown,
        "is_filtered": bool(chosen),
        "older": urlencode({**kept, "before": shown[-1].pk}) if len(found_rows) > ROWS else "",
        "newest": urlencode(kept) if last else None,
        "query": urlencode({**kept, **here}),
        "query_of_span": urlencode({**chosen, **here}),
        "status": status,
        "lane": lane,
        "text": text,
    }


def _chosen(request: HttpRequest, name: str, choices: Sequence[str]) -> str:
    value = request.GET.get(name, "")
    return value if value in choices else ""


def _add_series(rows: Iterable[Any]) -> None:
    """Name patient and series where that costs one query; a remote archive would be asked each."""
    if get_pacs().is_remote:
        return
    wanted = {row.main_series_id for row in rows}
    found = Series.objects.select_related("study").in_bulk(list(wanted))
    for row in rows:
        series = found.get(row.main_series_id)
        if series is not None:
            row.series = series


def _add_times(row: Any, now: datetime) -> None:
    """Give a row the seconds that it waited and that it was worked on."""
    row.waited = ((row.started_at or row.finished_at or now) - row.created_at).total_seconds()
    row.worked = None
    if row.started_at is not None:
        row.worked = ((row.finished_at or now) - row.started_at).total_seconds()


def _health(now: datetime) -> dict[str, Any]:
    report = health.look(now)
    language = get_language() or "en"
    waiting = SegmentationRequest.objects.filter(status=Status.PENDING)
    lanes = []
    for lane, label in Lane.choices:
        oldest = waiting.filter(lane=lane).order_by("created_at").first()
        lanes.append(
            {
                "label": label,
                "depth": report.queue[lane],
                "oldest_s": (now - oldest.created_at).total_seconds() if oldest else None,
                "online": sum(1 for one in report.workers if one["lane"] == lane),
            }
        )
    problems = [
        {"sentence": one.to_json(language)["message"], "is_warning": one.is_warning}
        for one in report.problems
    ]
    return {"problems": problems, "lane_rows": lanes}


def _workers(request: HttpRequest, now: datetime) -> list[Any]:
    rows = Worker.objects.filter(
        last_seen_at__gte=now - FORGOTTEN_AFTER, token__revoked_at__isnull=True
    ).order_by("-last_seen_at", "name")[:200]
    workers: list[Any] = list(rows)
    jobs = _jobs_of(workers)
    seen = _visible(request).filter(pk__in=[job.pk for job in jobs.values()])
    may_open = set(seen.values_list("pk", flat=True))
    for worker in workers:
        worker.is_online = now - worker.last_seen_at <= health.ONLINE_FOR
        worker.seen_s = max(0.0, (now - worker.last_seen_at).total_seconds())
        worker.job = jobs.get(worker.pk)
        worker.may_open = worker.job is not None and worker.job.pk in may_open
    return workers


def _jobs_of(workers: Iterable[Worker]) -> dict[Any, SegmentationRequest]:
    running = Attempt.objects.filter(
        worker__in=[one.pk for one in workers],
        outcome=Attempt.Outcome.RUNNING,
        request__status=Status.PROCESSING,
    ).select_related("request")
    return {one.worker_id: one.request for one in running}


def _charts(request: HttpRequest, now: datetime) -> dict[str, Any]:
    span = history.SPANS.get(request.GET.get("span", ""), history.SPANS["day"])
    bars = history.bars_of(_visible(request), span, now)
    ended, most = history.columns_of(bars, ("completed", "failed"), **_CHART)
    taken, longest = history.columns_of(bars, ("wait_s", "work_s"), **_CHART)
    return {
        "span": span.name,
        "spans": [("day", _("24 hours")), ("week", _("7 days")), ("month", _("30 days"))],
        "bars": bars,
        "ended": ended,
        "most": most,
        "taken": taken,
        "longest": longest,
        "chart": _CHART,
        "ended_label": _("Ended analyses: at most %(count)d in one bar.") % {"count": most},
        "taken_label": _("Median time: at most %(time)s in one bar.") % {"time": duration(longest)},
        "has_history": any(bar.completed or bar.failed for bar in bars),
    }


def _visible(request: HttpRequest) -> RequestQuerySet:
    return visible_requests(Caller(user=request.user))  # type: ignore[arg-type]


def _may_operate(request: HttpRequest) -> bool:
    return bool(request.user.has_perm("django_queue_app.change_segmentationrequest"))


@signed_in
@require_POST
def act(request: HttpRequest, request_id: str, verb: str) -> HttpResponse:
    """Cancel, try again, or (who may operate the queue) serve earlier or later."""
    actor = request.user.get_username()
    try:
        found = find_request(Caller(user=request.user), request_id)  # type: ignore[arg-type]
        if verb == "cancel":
            services.cancel(request_id=found.pk, actor=actor)
            messages.success(request, _("The analysis was cancelled."))
        elif verb == "retry":
            _retry(request, found)
        else:
            _shift(request, found, PRIORITY_STEP if verb == "earlier" else -PRIORITY_STEP)
    except ServiceError as error:
        messages.error(request, sentence_of(error))
    return _back(request)


def _retry(request: HttpRequest, found: SegmentationRequest) -> None:
    now, actor = timezone.now(), request.user.get_username()
    again = services.retry(request_id=found.pk, actor=actor, user=request.user, now=now)  # type: ignore[arg-type]
    if again.created_at == now:
        messages.success(request, _("The same series were filed once more."))
    else:  # an older one: nothing was filed
        messages.info(request, _("The same is under way already; nothing was filed."))


def _shift(request: HttpRequest, found: SegmentationRequest, step: int) -> None:
    if not _may_operate(request):
        messages.error(request, _("Your account may not change the order of the queue."))
        return
    priority = max(PRIORITY_MIN, min(PRIORITY_MAX, found.priority + step))
    actor = request.user.get_username()
    services.set_priority(request_id=found.pk, priority=priority, actor=actor)
    messages.success(request, _("The priority is %(priority)d now.") % {"priority": priority})


def _back(request: HttpRequest) -> HttpResponse:
    target = request.POST.get("next", "")
    is_ours = url_has_allowed_host_and_scheme(target, allowed_hosts={request.get_host()})
    return redirect(target if is_ours and target.startswith("/") else "segmentation-queue")

"""How the site is: the queue, the workers, the PACS, and what is wrong in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count
from django.utils import timezone

from django_queue_app import __version__, storing
from django_queue_app.conf import conf
from django_queue_app.errors import ServiceError
from django_queue_app.models import SegmentationRequest, Worker
from django_queue_app.pacs import get_pacs
from django_queue_app.states import Lane, Status

# Three missed beats of 30 s: a worker that waits or works calls at least that often.
ONLINE_FOR = timedelta(seconds=90)
UNSAVED_IS_STUCK_AFTER = timedelta(seconds=60)
# With the value that a worker's token and settings name.
_LANES_KO: Mapping[str, str] = {Lane.LAB: "연구실(lab)", Lane.CLOUD: "클라우드(cloud)"}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is wrong; `is_warning` where the site still does its work."""

    code: str
    en: str
    ko: str
    is_warning: bool = False

    def to_json(self, language: str) -> dict[str, str]:
        """Give it in English or Korean."""
        return {"code": self.code, "message": self.ko if language == "ko" else self.en}


@dataclass(frozen=True, kw_only=True)
class Report:
    """One look at everything."""

    queue: Mapping[str, Mapping[str, int]]
    workers: tuple[dict[str, Any], ...]
    is_pacs_reachable: bool
    problems: tuple[Problem, ...] = field(default_factory=tuple)

    @property
    def is_ok(self) -> bool:
        """Whether nothing is wrong but warnings."""
        return all(problem.is_warning for problem in self.problems)

    def to_minimal_json(self) -> dict[str, Any]:
        """Give what anybody may know."""
        return {"ok": self.is_ok, "version": __version__}

    def to_json(self, language: str) -> dict[str, Any]:
        """Give everything."""
        return {
            **self.to_minimal_json(),
            "queue": self.queue,
            "workers": self.workers,
            "pacs_reachable": self.is_pacs_reachable,
            "deidentify": conf.deidentify,
            "problems": [problem.to_json(language) for problem in self.problems],
        }


def look(now: datetime | None = None) -> Report:
    """Look at the queue, the workers and the PACS."""
    now = now or timezone.now()
    queue = queue_depth()
    workers = workers_online(now)
    pacs_problem = _pacs_problem()
    found = [
        *([pacs_problem] if pacs_problem else []),
        *_lanes_without_worker(queue, workers),
        *_unsaved_masks(now),
        *_open_identity(),
    ]
    return Report(
        queue=queue,
        workers=workers,
        is_pacs_reachable=pacs_problem is None,
        problems=tuple(found),
    )


def queue_depth() -> dict[str, dict[str, int]]:
    """Count the requests by lane and state; zeros are written out."""
    depth = {lane: dict.fromkeys(Status.values, 0) for lane in Lane.values}
    rows = SegmentationRequest.objects.order_by().values_list("lane", "status")
    for lane, status, count in rows.annotate(count=Count("id")):
        depth[lane][status] = count
    return depth


def workers_online(now: datetime) -> tuple[dict[str, Any], ...]:
    """List the workers that called in the last 90 s."""
    online = Worker.objects.filter(
        last_seen_at__gte=now - ONLINE_FOR, token__revoked_at__isnull=True
    )
    return tuple(
        {
            "name": worker.name,
            "lane": worker.lane,
            "version": worker.version,
            "device": worker.device,
            "models": worker.models_offered,
            "last_seen_seconds_ago": max(0.0, (now - worker.last_seen_at).total_seconds()),
        }
        for worker in online.order_by("lane", "name")
    )


def _pacs_problem() -> Problem | None:
    try:
        get_pacs().check()
    except ServiceError as error:
        return Problem(code="pacs_unreachable", en=error.message, ko=error.message_ko)
    return None


def _count(waiting: int) -> str:
    return "1 request waits" if waiting == 1 else f"{waiting} requests wait"


def _lanes_without_worker(
    queue: Mapping[str, Mapping[str, int]], workers: tuple[dict[str, Any], ...]
) -> list[Problem]:
    served = {worker["lane"] for worker in workers}
    return [
        Problem(
            code="no_worker",
            en=f"{_count(states['pending'])} in the {lane} lane and no worker of that lane "
            "is online; start one.",
            ko=f"{_LANES_KO[lane]} 레인에서 요청 {states['pending']}건이 대기 중이지만 "
            "접속한 워커가 없습니다. 워커를 시작하십시오.",
        )
        for lane, states in queue.items()
        if states["pending"] and lane not in served
    ]


def _unsaved_masks(now: datetime) -> list[Problem]:
    late = storing.unsaved().filter(finished_at__lte=now - UNSAVED_IS_STUCK_AFTER)
    refused = storing.unsaved().filter(store_due_at__isnull=True).exclude(store_failure_code="")
    codes = sorted(set(refused.values_list("store_failure_code", flat=True)))
    return [
        *_masks_late(late.exclude(pk__in=refused.values("pk")).count()),
        *_masks_refused(refused.count(), ", ".join(codes)),
    ]


def _masks_refused(count: int, codes: str) -> list[Problem]:
    if not count:
        return []
    return [
        Problem(
            code="masks_refused_by_pacs",
            en=f"The image archive refuses {count} finished masks ({codes}); correct what it "
            "objects to, then run store_masks --all. The masks are kept here.",
            ko=f"영상 저장소가 완료된 마스크 {count}건을 거부했습니다({codes}). 원인을 해결한 후 "
            "store_masks --all을 실행하십시오. 마스크는 이 사이트에 보관됩니다.",
        )
    ]


def _masks_late(count: int) -> list[Problem]:
    if not count:
        return []
    return [
        Problem(
            code="masks_not_in_pacs",
            en=f"{count} finished masks are not in the image archive yet; check that it accepts "
            "new objects. They are kept and stored later.",
            ko=f"완료된 마스크 {count}건이 아직 PACS에 저장되지 않았습니다. PACS 저장 상태를 "
            "확인하십시오. 마스크는 보관 중이며 나중에 저장됩니다.",
        )
    ]


def _open_identity() -> list[Problem]:
    if conf.deidentify and conf.direct_fetch:
        return [
            Problem(
                code="direct_fetch_on",
                en="SEGMENTATION_DIRECT_FETCH is true: workers with access to the image archive "
                "see who the patient is.",
                ko="SEGMENTATION_DIRECT_FETCH가 true입니다. 영상 저장소에 접근하는 워커가 환자 "
                "정보를 볼 수 있습니다.",
                is_warning=True,
            )
        ]
    if conf.deidentify:
        return []
    return [
        Problem(
            code="deidentify_off",
            en="SEGMENTATION_DEIDENTIFY is false: workers see who the patient is.",
            ko="SEGMENTATION_DEIDENTIFY가 false입니다. 워커가 환자 정보를 볼 수 있습니다.",
            is_warning=True,
        )
    ]

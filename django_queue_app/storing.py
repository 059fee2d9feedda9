"""Finished masks on their way into the archive: tried at once, then again with growing pauses.

Whoever has time tries: the call that completes a request, idle claims, the watcher of waiting
calls, a management command. One conditional UPDATE decides which of them does, so that several
processes don't store the same mask side by side; and if they did, its UID is the same each time
and the archive keeps one.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection, connections
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from django_queue_app import delivery
from django_queue_app.errors import ArtifactMissing, ServiceError
from django_queue_app.models import SegmentationRequest
from django_queue_app.pacs.port import ConflictingInstance, InvalidInstance, StoreRefused
from django_queue_app.states import Status

logger = logging.getLogger(__name__)

# A process that dies while it stores is waited for so long: longer than a store may take.
TAKEN_FOR = timedelta(minutes=15)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 15.0, 1800.0
# How often a process looks for masks that are due.
LOOK_EVERY_S = 5.0

# Asking again changes nothing; a person has to.
_FOR_GOOD = (StoreRefused, ConflictingInstance, InvalidInstance)


def unsaved() -> QuerySet[SegmentationRequest]:
    """Return completed requests whose mask is ours to store and not in the archive."""
    masks = Q(artifacts__name=delivery.MASK)
    return SegmentationRequest.objects.filter(
        masks, status=Status.COMPLETED, saved_to_pacs_at__isnull=True
    ).distinct()


def is_refused(request: SegmentationRequest) -> bool:
    """Whether the archive will not take the request's mask, so that nobody asks it again."""
    is_open = request.store_due_at is None and bool(request.store_failure_code)
    return is_open and not request.is_saved_to_pacs


def store(request_id: UUID, *, now: datetime | None = None) -> bool:
    """Try to store a request's mask, if it is due and nobody else does; tell whether it worked."""
    now = now or timezone.now()
    if not _take(request_id, now):
        return False
    request = SegmentationRequest.objects.get(pk=request_id)
    try:
        delivery.store_in_pacs(request)
    except ArtifactMissing:
        return False  # an existing worker stored it itself
    except ServiceError as error:
        _note_failure(request, error, now)
        return False
    SegmentationRequest.objects.filter(pk=request_id).update(
        store_due_at=None, store_failure_code=""
    )
    return True


def _due(now: datetime) -> Q:
    return Q(store_due_at__lte=now) | Q(store_due_at__isnull=True, store_failure_code="")


def _take(request_id: UUID, now: datetime) -> bool:
    ours = SegmentationRequest.objects.filter(
        _due(now), pk=request_id, status=Status.COMPLETED, saved_to_pacs_at__isnull=True
    )
    return ours.update(store_due_at=now + TAKEN_FOR) == 1


def _note_failure(request: SegmentationRequest, error: ServiceError, now: datetime) -> None:
    is_final = isinstance(error, _FOR_GOOD)
    logger.warning(
        "mask_not_stored",
        extra={"request_id": str(request.pk), "code": error.code, "is_final": is_final},
    )
    SegmentationRequest.objects.filter(pk=request.pk).update(
        store_attempts=F("store_attempts") + 1,
        store_failure_code=error.code,
        store_due_at=None if is_final else now + pause_after(request.store_attempts + 1),
    )


def pause_after(attempts: int) -> timedelta:
    """Return the pause after so many attempts that failed."""
    doubled = FIRST_PAUSE_S * 2.0 ** min(attempts - 1, 30)
    return timedelta(seconds=min(doubled, LONGEST_PAUSE_S))


def retry_due(limit: int = 10, *, now: datetime | None = None) -> int:
    """Try masks that are due, those that wait longest first; return how many were stored."""
    now = now or timezone.now()
    due = unsaved().filter(_due(now)).order_by(F("store_due_at").asc(nulls_first=True), "pk")
    ids = list(due.values_list("pk", flat=True)[:limit])
    return sum(store(one, now=now) for one in ids)


def retry_all(*, now: datetime | None = None) -> int:
    """Try every mask that is not stored, refused ones too; return how many were stored."""
    now = now or timezone.now()
    ids = list(unsaved().values_list("pk", flat=True))
    for one in ids:
        SegmentationRequest.objects.filter(pk=one, saved_to_pacs_at__isnull=True).update(
            store_due_at=now
        )
    return sum(store(one, now=now) for one in ids)


class Pace:
    """Lets one caller through in a while; kept per process."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._lock = threading.Lock()
        self._next = 0.0

    def is_due(self) -> bool:
        """Whether it is time again; then the next time is `every_s` later."""
        now = time.monotonic()
        with self._lock:
            if now < self._next:
                return False
            self._next = now + self._every_s
            return True


_pace = Pace(LOOK_EVERY_S)
_at_work = threading.Lock()


def retry_in_background() -> None:
    """Let a thread try what is due, unless one is at it or it is not yet time to look again."""
    if not _pace.is_due() or not unsaved().filter(_due(timezone.now())).exists():
        return
    if connection.in_atomic_block:  # a thread would not see what stands in this transaction
        retry_due(limit=1)
        return
    if _at_work.acquire(blocking=False):
        threading.Thread(target=_retry_in_thread, name="store", daemon=True).start()


def _retry_in_thread() -> None:
    try:
        retry_due()
    except Exception:
        logger.exception("stores_not_retried")
    finally:
        connections.close_all()
        _at_work.release()

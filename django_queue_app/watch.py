"""What `wakeup` needs of Django: a look into the database, and the services' signals."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import close_old_connections, connections
from django.utils import timezone

from django_queue_app import statements, storing
from django_queue_app.models import SegmentationRequest
from django_queue_app.signals import request_changed, request_filed
from django_queue_app.states import FINISHED
from django_queue_app.wakeup import Sight, Work, notify_changed, notify_ended, notify_work

# The watcher keeps its connection from one look to the next, and gives it back after so many, that
# the pool may check it or close it for its age.
LOOKS_PER_CONNECTION = 240


class DatabaseLook:
    """The watcher's look: at most two queries, on the one connection of the watcher's thread.

    Every few seconds a third finds out whether a mask is due to be stored.
    """

    def __init__(self) -> None:
        self._looks = 0

    def __call__(self, *, lanes: Collection[str], request_ids: Collection[UUID]) -> Sight:
        """Look for work in `lanes`, and for ends and changes among `request_ids`."""
        self._looks += 1
        if self._looks % LOOKS_PER_CONNECTION == 0:
            close_old_connections()
        try:
            return self._look(lanes, request_ids)
        except Exception:
            self.close()  # the next look gets a connection that works, if there is one
            raise

    def _look(self, lanes: Collection[str], request_ids: Collection[UUID]) -> Sight:
        storing.retry_in_background()
        rows = _read(request_ids) if request_ids else []
        return Sight(
            work=_claimable(lanes) if lanes else (),
            ended=frozenset(key for key, status, _ in rows if status in FINISHED),
            changed_at={key: changed_at for key, _, changed_at in rows},
        )

    def close(self) -> None:
        """Close this thread's connections."""
        connections.close_all()


def _claimable(lanes: Collection[str]) -> tuple[Work, ...]:
    found = statements.claimable(sorted(lanes), timezone.now())
    return tuple(Work(lane=lane, model=model, count=count) for lane, model, count in found)


def _read(request_ids: Collection[UUID]) -> list[tuple[UUID, str, datetime]]:
    rows = SegmentationRequest.objects.filter(id__in=list(request_ids))
    return list(rows.values_list("id", "status", "updated_at"))


def _on_filed(*, lane: str, **_: Any) -> None:
    notify_work(Work(lane=lane))


def _on_changed(*, request_id: UUID, status: str, **_: Any) -> None:
    notify_changed(request_id)
    if status in FINISHED:
        notify_ended(request_id)


request_filed.connect(_on_filed, dispatch_uid="django_queue_app.watch.filed")
request_changed.connect(_on_changed, dispatch_uid="django_queue_app.watch.changed")

"""Which workers there are, what they said of themselves, and when they were last heard of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django_queue_app import statements, wrong_clock
from django_queue_app.impatient import write_unless_busy
from django_queue_app.models import ApiToken, Attempt, Worker
from django_queue_app.text import clean_text

# In a heartbeat, which writes anyway.
_WORKER_IS_NOTED_EVERY = timedelta(seconds=10)
# A poll writes nothing else, and hundreds of idle workers poll every 25 s: every second time will
# do, for a worker counts as gone after 90 s (`health.ONLINE_FOR`).
_POLL_IS_NOTED_EVERY = timedelta(seconds=30)


@dataclass(frozen=True, kw_only=True)
class WorkerInfo:
    """How a worker describes itself when it polls."""

    name: str
    version: str = ""
    device: str = ""
    models: tuple[str, ...] = ()


def note_worker(
    token: ApiToken, info: WorkerInfo, now: datetime, *, is_legacy: bool = False
) -> Worker:
    """Keep what a worker said of itself; write only what is new, or the time now and then."""
    wrong_clock.correct(now)
    said = said_by(token, info, is_legacy=is_legacy)
    worker = Worker.objects.filter(token=token, name=said["name"]).first()
    worker = worker or first_seen(token, said, now)
    note(worker, said, now)
    return worker


def said_by(token: ApiToken, info: WorkerInfo, *, is_legacy: bool = False) -> dict[str, Any]:
    """Return what a worker said of itself as columns of its row."""
    return {
        "name": clean_text(info.name, 150) or token.name,
        "lane": token.lane,
        "version": clean_text(info.version, 64),
        "device": clean_text(info.device, 200),
        "models_offered": sorted({clean_text(model, 100) for model in info.models}),
        "is_legacy": is_legacy,
    }


def first_seen(token: ApiToken, said: Mapping[str, Any], now: datetime) -> Worker:
    """Return the row of a worker that had none a moment ago."""
    fresh = {**said, "first_seen_at": now, "last_seen_at": now}
    return Worker.objects.get_or_create(token=token, name=said["name"], defaults=fresh)[0]


def note(worker: Worker, said: Mapping[str, Any], now: datetime) -> None:
    """Write what is new of a worker or, now and then, that it polls."""
    if any(getattr(worker, key) != value for key, value in said.items()):
        Worker.objects.filter(pk=worker.pk).update(**said, last_seen_at=now)
        for key, value in said.items():
            setattr(worker, key, value)
    elif now - worker.last_seen_at >= _POLL_IS_NOTED_EVERY:
        write_unless_busy(lambda: statements.NOTE_POLL.execute(id=worker.pk, last_seen_at=now))


def note_seen(attempt: Attempt, now: datetime) -> None:
    """Keep when the worker was last heard of."""
    Worker.objects.filter(attempts=attempt, last_seen_at__lte=now - _WORKER_IS_NOTED_EVERY).update(
        last_seen_at=now
    )

"""Rows and files that nobody needs any more. `manage.py prune` removes them; nothing else does.

Whatever an unfinished request, or a mask that is not in the archive yet, needs stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone

from django_queue_app import artifact_files, served, storing
from django_queue_app.conf import conf
from django_queue_app.models import (
    Artifact,
    Attempt,
    Event,
    Instance,
    RemoteSeries,
    SegmentationRequest,
    ServedDigest,
    Worker,
)
from django_queue_app.pacs import get_pacs
from django_queue_app.states import FINISHED

# A worker may bring a late mask after a holiday; its lease must still be known then.
LEAST_DAYS_OF_REQUESTS = 30
_AT_A_TIME = 500


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """How many of each kind were removed, or would be."""

    requests: int = 0
    digests: int = 0
    series: int = 0
    workers: int = 0


def prune(*, is_dry: bool = False, now: datetime | None = None) -> Pruned:
    """Remove what is older than the settings allow.

    Parameters
    ----------
    is_dry : bool
        Only count.
    now : datetime, optional
        The server's time.

    Returns
    -------
    Pruned
        A request whose retry goes in the same run is only counted once its retry is gone, so that
        a dry run may count fewer.

    Raises
    ------
    StorageUnavailable
        The files of a request can't be removed now; the request stays.
    """
    now = now or timezone.now()
    if is_dry:
        return Pruned(
            requests=old_requests(now).count(),
            digests=unused_digests(now).count(),
            series=unused_series(now).count(),
            workers=gone_workers(now).count(),
        )
    return Pruned(
        requests=_remove_requests(now),
        digests=_remove(unused_digests(now)),
        series=_remove(unused_series(now)),
        workers=_remove(gone_workers(now)),
    )


def old_requests(now: datetime) -> QuerySet[SegmentationRequest]:
    """Return finished requests that are older than requests are kept, and that nothing refers to.

    None unless the settings say how long they are kept.
    """
    if not conf.keep_requests_days:
        return SegmentationRequest.objects.none()
    kept = timedelta(days=max(conf.keep_requests_days, LEAST_DAYS_OF_REQUESTS))
    retries = SegmentationRequest.objects.filter(retry_of=OuterRef("pk"))
    return (
        SegmentationRequest.objects.filter(status__in=FINISHED, finished_at__lt=now - kept)
        .exclude(Exists(retries))
        .exclude(pk__in=storing.unsaved().values("pk"))
        .order_by("-finished_at", "pk")  # retries before what they repeat
    )


def _remove_requests(now: datetime) -> int:
    """Remove requests with all that belongs to them; again, for what only their retries kept."""
    removed = 0
    while keys := list(old_requests(now).values_list("pk", flat=True)[:_AT_A_TIME]):
        done = sum(_remove_request(key, now) for key in keys)
        if not done:
            break
        removed += done
    return removed


@transaction.atomic
def _remove_request(key: UUID, now: datetime) -> bool:
    """Remove one request, its files first: what is left if that fails is found by the next run."""
    still_old = old_requests(now).filter(pk=key).select_for_update(of=("self",)).first()
    if still_old is None:
        return False
    files = Artifact.objects.filter(request_id=key)
    for row in files:
        for name in {row.storage_name, row.final_storage_name} - {""}:
            artifact_files.delete_file(name)
    files.delete()
    Event.objects.filter(request_id=key).forget()
    Attempt.objects.filter(request_id=key).delete()
    SegmentationRequest.objects.filter(pk=key).delete()
    return True


def unused_digests(now: datetime) -> QuerySet[ServedDigest]:
    """Return digests of images that are gone, that nobody asked for, or made by an older recipe."""
    mine = ServedDigest.objects.filter(recipe=served.recipe())
    if get_pacs().is_remote:
        needed = mine.filter(used_at__gte=now - conf.keep_unused)
    else:
        needed = mine.filter(Exists(Instance.objects.filter(pk=OuterRef("instance_id"))))
    return ServedDigest.objects.exclude(pk__in=needed.values("pk")).filter(
        used_at__lt=now - timedelta(days=1)
    )


def unused_series(now: datetime) -> QuerySet[RemoteSeries]:
    """Return series of an archive without ids that nobody looked at, in studies without requests.

    The next listing of the series brings them back.
    """
    requests = SegmentationRequest.objects.filter(main_series_id=OuterRef("pk"))
    studies = RemoteSeries.objects.filter(Exists(requests)).values("study_uid")
    unused = RemoteSeries.objects.filter(used_at__lt=now - conf.keep_unused)
    return unused.exclude(study_uid__in=studies)


def gone_workers(now: datetime) -> QuerySet[Worker]:
    """Return workers that were not heard of, and hold nothing; their runs keep their names."""
    running = Attempt.objects.filter(worker=OuterRef("pk"), outcome=Attempt.Outcome.RUNNING)
    gone = Worker.objects.filter(last_seen_at__lt=now - conf.keep_unused)
    return gone.exclude(Exists(running))


def _remove(rows: QuerySet[Any]) -> int:
    """Remove rows a few at a time, so that nobody waits long for SQLite's one writer."""
    removed = 0
    while keys := list(rows.values_list("pk", flat=True)[:_AT_A_TIME]):
        rows.model.objects.filter(pk__in=keys).delete()
        removed += len(keys)
    return removed

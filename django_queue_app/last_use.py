"""When a kept row was last of use, right to the day, so that reading seldom writes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from django.utils import timezone

from django_queue_app.impatient import write_unless_busy
from django_queue_app.pacs.index import RemoteSeries, ServedDigest

A_DAY = timedelta(days=1)


def touch(
    model: type[RemoteSeries | ServedDigest], rows: Iterable[RemoteSeries | ServedDigest]
) -> None:
    """Note that rows that were read are in use."""
    now = timezone.now()
    stale: list[str | int] = [row.pk for row in rows if row.used_at < now - A_DAY]
    if stale:
        write_unless_busy(lambda: model.objects.filter(pk__in=stale).update(used_at=now))

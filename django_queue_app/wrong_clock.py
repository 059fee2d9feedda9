"""The server's clock was ahead and has been set back: what was written by it must not wait for it.

A clock set forward needs nothing: leases run out early, a late result is taken all the same. One
set back by an hour would keep the requests of the hour before from being claimed, and a dead
worker's lease alive, until the clock has been there again.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q, QuerySet, Value

from django_queue_app.conf import conf
from django_queue_app.models import Attempt, SegmentationRequest, Worker
from django_queue_app.states import Status

logger = logging.getLogger(__name__)

# Several site machines never agree to the millisecond, and a worker that polls is noted every 10 s.
TOLERANCE = timedelta(seconds=5)


def correct(now: datetime) -> bool:
    """Bring times that lie further ahead than any could back to `now`; tell whether there are any.

    One query, which looks into two indexes. Claims ask for the `signs` in a query of their own.
    """
    seen, filed = signs(now + TOLERANCE)
    sign = Value(True)
    if not seen.values_list(sign).union(filed.values_list(sign), all=True)[:1]:
        return False
    with transaction.atomic():
        # Workers before requests, as everywhere, so that nobody waits in a circle.
        Worker.objects.filter(last_seen_at__gt=now).update(last_seen_at=now)
        _correct_requests(now)
    logger.warning("server_clock_set_back")
    return True


def signs(soon: datetime) -> tuple[QuerySet[Worker], QuerySet[SegmentationRequest]]:
    """Return the workers that were seen, and the requests that were filed, in the future."""
    return Worker.objects.filter(last_seen_at__gt=soon), SegmentationRequest.objects.filter(
        status=Status.PENDING, created_at__gt=soon, available_at__gt=soon
    )


def _correct_requests(now: datetime) -> None:
    pending = SegmentationRequest.objects.filter(status=Status.PENDING)
    never_claimed = Q(claim_count=0, available_at__gt=now)
    longest_pause = timedelta(seconds=conf.backoff_max_s)
    too_late = Q(available_at__gt=now + longest_pause)
    pending.filter(never_claimed | too_late).update(available_at=now)
    pending.filter(offered_until__gt=now + conf.legacy_offer).update(
        offered_until=None, offered_to=None
    )
    for is_legacy, lease, deadline in (
        (False, conf.lease, conf.deadline),
        (True, conf.legacy_lease, conf.legacy_lease),
    ):
        running = SegmentationRequest.objects.filter(
            status=Status.PROCESSING,
            lease_id__in=Attempt.objects.filter(
                is_legacy=is_legacy, outcome=Attempt.Outcome.RUNNING
            ).values("lease_id"),
        )
        # A whole lease from now: its worker may be alive, and beats again within it.
        running.filter(lease_expires_at__gt=now + lease).update(lease_expires_at=now + lease)
        running.filter(deadline_at__gt=now + deadline).update(deadline_at=now + deadline)

"""How long a request is likely to take, from those that came before it."""

from __future__ import annotations

from datetime import datetime
from statistics import median

from django_queue_app.models import SegmentationRequest
from django_queue_app.states import Status

# Recent enough to follow a change of the lab's machine, enough for a median that one odd case
# doesn't move.
LOOKED_AT = 20


def elapsed_s(request: SegmentationRequest, now: datetime) -> float:
    """Count the seconds since a request was filed, until it ended."""
    until = request.finished_at or now
    return max(0.0, (until - request.created_at).total_seconds())


def expected_s(request: SegmentationRequest) -> float | None:
    """Expect what recent requests of the same model and lane took from the claim to the mask.

    Returns
    -------
    float or None
        Seconds of work, waiting in the queue not counted; None where there is nothing to go by.
    """
    recent = SegmentationRequest.objects.filter(
        status=Status.COMPLETED,
        lane=request.lane,
        model=request.model,
        started_at__isnull=False,
        finished_at__isnull=False,
    ).order_by("-created_at", "-id")
    times = recent.values_list("started_at", "finished_at")[:LOOKED_AT]
    taken = [(end - start).total_seconds() for start, end in times if start and end]
    return round(median(taken), 1) if taken else None

"""Whose requests a caller may see: the one place to narrow it.

A department works on its patients together, so every signed-in user sees every request of the
site. A site that must separate groups changes `visible_requests`.
"""

from __future__ import annotations

from django.db.models import Q

from django_queue_app.api.auth import Caller
from django_queue_app.api.headers import parse_uuid
from django_queue_app.errors import RequestNotFound
from django_queue_app.models import SegmentationRequest
from django_queue_app.querysets import RequestQuerySet


def visible_requests(caller: Caller) -> RequestQuerySet:  # noqa: ARG001  (the seam)
    """Give the requests that this caller may see and act on."""
    return SegmentationRequest.objects.all()


def find_request(caller: Caller, request_id: str) -> SegmentationRequest:
    """Find a request by the id of an address.

    Raises
    ------
    RequestNotFound
        It is no UUID, there is none, or this caller may not see it.
    """
    key = parse_uuid(request_id)
    found = visible_requests(caller).filter(pk=key).first() if key else None
    if found is None:
        raise RequestNotFound
    return found


def older_than(rows: RequestQuerySet, last: SegmentationRequest) -> RequestQuerySet:
    """Keep what comes after `last` in a list that shows the newest first."""
    same_time = Q(created_at=last.created_at, id__lt=last.pk)
    return rows.filter(Q(created_at__lt=last.created_at) | same_time)

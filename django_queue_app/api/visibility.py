"""Whose requests a caller may see: the one place that decides it.

A department works on its patients together, so every signed-in user sees every request of the
site. A site that must separate groups names a function in `SEGMENTATION_VISIBLE_REQUESTS`, as
"package.module.function": it is given the user and returns a `Q` over requests.
"""

from __future__ import annotations

from django.conf import settings
from django.db.models import Q
from django.utils.module_loading import import_string

from django_queue_app.api.auth import Caller
from django_queue_app.api.errors import InstanceUnknown
from django_queue_app.api.headers import parse_uuid
from django_queue_app.errors import RequestNotFound
from django_queue_app.models import SegmentationRequest
from django_queue_app.querysets import RequestQuerySet


def visible_requests(caller: Caller) -> RequestQuerySet:
    """Give the requests that this caller may see and act on."""
    rows = SegmentationRequest.objects.all()
    rule = str(getattr(settings, "SEGMENTATION_VISIBLE_REQUESTS", ""))
    if not rule or caller.user is None:  # a worker sees no request but the one that it holds
        return rows
    return rows.filter(import_string(rule)(caller.user))


def require_visible_mask(caller: Caller, seg_instance_id: str) -> None:
    """Refuse a mask that is the result of requests of which this caller may see none.

    Raises
    ------
    InstanceUnknown
    """
    made = SegmentationRequest.objects.filter(seg_instance_id=seg_instance_id)
    seen = visible_requests(caller).filter(seg_instance_id=seg_instance_id)
    if made.exists() and not seen.exists():
        raise InstanceUnknown


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

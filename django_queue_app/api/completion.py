"""Taking a result: the mask gets its patient back before anything becomes visible.

First the files are checked, then the mask is re-identified, then one transaction decides whether
this result is the first, and only then it goes to the PACS. A PACS that is away delays only the
last step; `deliver_due` takes it up again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django_queue_app import delivery, services
from django_queue_app.errors import ArtifactMissing, ServiceError
from django_queue_app.models import ApiToken, Attempt, SegmentationRequest
from django_queue_app.services import FinalisedMask, Outcome
from django_queue_app.states import Status, sources_of

logger = logging.getLogger(__name__)

MASK = "mask.dcm"
# A PACS that is away may take long to say so, so the calls that look after it do so rarely.
DELIVERED_EVERY_S = 30.0


def complete(
    attempt: Attempt, token: ApiToken, *, result: Mapping[str, Any], artifacts: Mapping[str, str]
) -> Outcome:
    """Make a result the request's own if it is the first.

    Parameters
    ----------
    attempt : Attempt
        The worker's own run, current or past.
    token : ApiToken
        Whose call it is.
    result : mapping
        JSON values of the contract's result.
    artifacts : mapping of str to str
        Name of each uploaded file to the SHA-256 (hex) of its bytes; the mask is required.

    Raises
    ------
    ServiceError
        As `services.complete` and `delivery.finalise`.
    """
    outcome = services.complete(
        request_id=attempt.request_id,
        lease_id=attempt.lease_id,
        token=token,
        result=result,
        artifacts=artifacts,
        finalised=_finalise(attempt, artifacts),
    )
    _tidy(attempt)
    if outcome != "superseded":
        store(attempt.request_id)
    return outcome


def _tidy(attempt: Attempt) -> None:
    try:
        delivery.drop_unused_files(attempt.request_id, attempt.lease_id)
    except ServiceError as error:  # the result stands
        logger.warning("files of request %s not tidied: %s", attempt.request_id, error.code)


def _finalise(attempt: Attempt, artifacts: Mapping[str, str]) -> FinalisedMask | None:
    """Give the mask its patient back, unless the service will refuse the result anyway."""
    if MASK not in artifacts:
        raise ArtifactMissing(
            f"A result needs {MASK}; upload it and name its digest in artifacts.",
            f"결과에는 {MASK}가 필요합니다. 업로드한 후 artifacts에 다이제스트를 적으십시오.",
        )
    uploaded = dict(attempt.artifacts.values_list("name", "sha256"))
    is_whole = all(uploaded.get(name) == sha256 for name, sha256 in artifacts.items())
    can_win = attempt.request.status in sources_of(Status.COMPLETED)
    return delivery.finalise(attempt.request, attempt.lease_id) if is_whole and can_win else None


def store(request_id: UUID) -> None:
    """Put the mask of a completed request into the PACS; if that fails it stays due."""
    request = SegmentationRequest.objects.get(pk=request_id)
    if request.is_saved_to_pacs:
        return
    try:
        delivery.store_in_pacs(request)
    except ServiceError as error:
        logger.warning("mask of request %s is not in the PACS yet: %s", request_id, error.code)


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


_pace = Pace(DELIVERED_EVERY_S)


def deliver_due() -> None:
    """Take up a mask that the PACS has not taken yet, if it is time again."""
    if _pace.is_due():
        delivery.retry_pending_stores(limit=1)

"""Taking a result: the mask gets its patient back before anything becomes visible.

First the files are checked, then the mask is re-identified, then one transaction decides whether
this result is the first, and only then it goes to the PACS. A PACS that is away delays only the
last step; `storing` takes it up again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from django_queue_app import delivery, services, storing
from django_queue_app.api.inputs_gone import fail_for_good
from django_queue_app.errors import ArtifactMissing, ServiceError
from django_queue_app.models import ApiToken, Attempt
from django_queue_app.pacs.port import InstanceNotFound, SeriesNotFound
from django_queue_app.served import InputVanished
from django_queue_app.services import FinalisedMask, Outcome
from django_queue_app.states import Status, sources_of

logger = logging.getLogger(__name__)

MASK = "mask.dcm"


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
        finalised=_finalise(attempt, token, artifacts),
    )
    _tidy(attempt)
    if outcome != "superseded":
        storing.store(attempt.request_id)
    return outcome


def _tidy(attempt: Attempt) -> None:
    try:
        delivery.drop_unused_files(attempt.request_id, attempt.lease_id)
    except ServiceError as error:  # the result stands
        logger.warning("files of request %s not tidied: %s", attempt.request_id, error.code)


def _finalise(
    attempt: Attempt, token: ApiToken, artifacts: Mapping[str, str]
) -> FinalisedMask | None:
    """Give the mask its patient back, unless the service will refuse the result anyway."""
    if MASK not in artifacts:
        raise ArtifactMissing(
            f"A result needs {MASK}; upload it and name its digest in artifacts.",
            f"결과에는 {MASK}가 필요합니다. 업로드한 후 artifacts에 다이제스트를 적으십시오.",
        )
    uploaded = dict(attempt.artifacts.values_list("name", "sha256"))
    is_whole = all(uploaded.get(name) == sha256 for name, sha256 in artifacts.items())
    can_win = attempt.request.status in sources_of(Status.COMPLETED)
    if not (is_whole and can_win):
        return None
    try:
        return delivery.finalise(attempt.request, attempt.lease_id)
    except (SeriesNotFound, InstanceNotFound) as error:
        # Whose mask this is can't be told any more, now or later.
        gone = InputVanished()
        fail_for_good(attempt.request, token, gone)
        raise gone from error

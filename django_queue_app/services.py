"""What front ends and workers may do with a request: every transition, one transaction each.

Every function takes `now`, so that tests own the clock; only the server's clock counts. Refusals
are `errors.ServiceError`s. Workers that send no lease are served by `legacy`.
"""

from __future__ import annotations

from django_queue_app.filing import (
    Filed,
    cancel,
    file_request,
    mark_saved_to_pacs,
    retry,
    set_priority,
)
from django_queue_app.leases import claim, heartbeat, reap_expired
from django_queue_app.results import (
    ARTIFACT_NAMES,
    FinalisedMask,
    Outcome,
    complete,
    fail,
    record_artifact,
    release,
)
from django_queue_app.workers import WorkerInfo

__all__ = [
    "ARTIFACT_NAMES",
    "Filed",
    "FinalisedMask",
    "Outcome",
    "WorkerInfo",
    "cancel",
    "claim",
    "complete",
    "fail",
    "file_request",
    "heartbeat",
    "mark_saved_to_pacs",
    "reap_expired",
    "record_artifact",
    "release",
    "retry",
    "set_priority",
]

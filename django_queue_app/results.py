"""How a run ends: files and a result, a failure, or the request given back."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from django_queue_app import artifact_files, changes
from django_queue_app.changes import WITHOUT_LEASE
from django_queue_app.compiled import Together
from django_queue_app.errors import (
    ArtifactMissing,
    InvalidRequest,
    LeaseNotCurrent,
    RequestCancelled,
    RequestFinished,
)
from django_queue_app.leases import actor_of, attempt_of, backoff, give_back
from django_queue_app.models import ApiToken, Artifact, Attempt, SegmentationRequest
from django_queue_app.states import Status
from django_queue_app.text import canonical, clean_json, clean_text
from django_queue_app.workers import note_seen

Outcome = Literal["accepted", "replay", "superseded"]

ARTIFACT_NAMES = frozenset({"mask.dcm", "mask.nii.gz", "preview.png", "report.json", "report.html"})

_SHA256 = re.compile(r"[0-9a-f]{64}")
# A released request goes back at once, but one that is released again and again (a fault of the
# device that each run provokes) must not keep the others waiting for ever.
_FREE_RELEASES = 2


@dataclass(frozen=True, kw_only=True)
class FinalisedMask:
    """Where the mask lies once the patient's identity is back in it.

    Names are those of Django's default storage; an empty one means that the worker's own bytes are
    what people are given.
    """

    seg_instance_id: str
    mask_storage_name: str = ""
    report_storage_name: str = ""


@transaction.atomic
def record_artifact(
    *,
    request_id: UUID,
    lease_id: UUID,
    token: ApiToken,
    name: str,
    sha256: str,
    size_bytes: int,
    storage_name: str,
    now: datetime | None = None,
) -> tuple[Artifact, bool]:
    """Note an uploaded file; tell whether its content is new under this lease.

    Any lease ever issued for the request may upload while there is no result.

    Raises
    ------
    RequestNotFound, LeaseNeverIssued, NotYourJob, InvalidRequest
    RequestCancelled, RequestFinished
        410: the request was cancelled, or another result was first.
    """
    now = now or timezone.now()
    if name not in ARTIFACT_NAMES or not _SHA256.fullmatch(sha256) or size_bytes < 0:
        raise InvalidRequest(
            f"A result file is one of {', '.join(sorted(ARTIFACT_NAMES))}.",
            "허용되지 않은 결과 파일 이름입니다.",
        )
    attempt = attempt_of(request_id, lease_id, token)
    note_seen(attempt, now)
    request = changes.lock(request_id)
    if request.status == Status.CANCELLED:
        raise RequestCancelled
    artifact = Artifact.objects.filter(attempt=attempt, name=name).first()
    if artifact is not None and artifact.sha256 == sha256:
        return artifact, False
    if request.status == Status.COMPLETED:
        raise RequestFinished
    if artifact is not None:
        replaced = partial(artifact_files.delete_file, artifact.storage_name)
        transaction.on_commit(replaced, robust=True)  # a file left over is no reason to refuse
    artifact = artifact or Artifact(request=request, attempt=attempt, name=name)
    artifact.sha256 = sha256
    artifact.size_bytes = size_bytes
    artifact.storage_name = storage_name
    artifact.created_at = now
    artifact.save()
    return artifact, True


@transaction.atomic
def complete(
    *,
    request_id: UUID,
    lease_id: UUID,
    token: ApiToken,
    result: Mapping[str, Any],
    artifacts: Mapping[str, str],
    finalised: FinalisedMask | None = None,
    now: datetime | None = None,
) -> Outcome:
    """Take a result from any lease ever issued for this request; the first one wins for good.

    Parameters
    ----------
    request_id, lease_id : UUID
        The request, and the lease under which the worker ran.
    token : ApiToken
        Whose call it is.
    result : mapping
        JSON values of the contract's result.
    artifacts : mapping of str to str
        Name of each uploaded file to the SHA-256 (hex) of its bytes.
    finalised : FinalisedMask, optional
        Where the mask lies once re-identified.
    now : datetime, optional
        The server's time.

    Returns
    -------
    str
        "accepted"; "replay" if this very result is the one already; "superseded" if another was
        first.

    Raises
    ------
    RequestNotFound, LeaseNeverIssued, NotYourJob, RequestCancelled, ArtifactMissing, InvalidRequest
    """
    now = now or timezone.now()
    attempt = attempt_of(request_id, lease_id, token, is_locked=True)
    return accept_result(
        attempt.request, attempt, result=result, artifacts=artifacts, finalised=finalised, now=now
    )


def accept_result(
    request: SegmentationRequest,
    attempt: Attempt,
    *,
    result: Mapping[str, Any],
    artifacts: Mapping[str, str],
    finalised: FinalisedMask | None,
    now: datetime,
) -> Outcome:
    """Make a result the request's own if it is the first; `request` is locked."""
    if request.status == Status.CANCELLED:
        raise RequestCancelled
    stored = clean_json(dict(result))
    digest = hashlib.sha256(canonical([stored, dict(artifacts)]).encode()).hexdigest()
    if request.status == Status.COMPLETED:
        is_same = (request.result_lease_id, request.result_digest) == (attempt.lease_id, digest)
        return "replay" if is_same else "superseded"
    _require_artifacts(attempt, artifacts)
    if request.lease_id != attempt.lease_id:
        changes.end_current_attempt(request, Attempt.Outcome.SUPERSEDED, now=now)
    _name_final_files(attempt, finalised)
    is_late = request.lease_id != attempt.lease_id
    with Together() as together:
        changes.end_attempt(attempt, Attempt.Outcome.COMPLETED, now=now, together=together)
        changes.move(
            request,
            Status.COMPLETED,
            actor=actor_of(attempt.worker_name),
            reason="completed_late" if is_late else "completed",
            now=now,
            together=together,
            result=stored,
            result_lease_id=attempt.lease_id,
            result_digest=digest,
            seg_instance_id=finalised.seg_instance_id if finalised else "",
            processed_by=attempt.worker_name,
            finished_at=now,
            progress=1.0,
            failure_code="",
            failure_message="",
            failure_message_ko="",
            **WITHOUT_LEASE,
        )
    return "accepted"


def _require_artifacts(attempt: Attempt, artifacts: Mapping[str, str]) -> None:
    if not artifacts:
        return
    uploaded = dict(Artifact.objects.filter(attempt=attempt).values_list("name", "sha256"))
    for name, sha256 in artifacts.items():
        if uploaded.get(name) != sha256:
            shown = clean_text(name, 64)
            raise ArtifactMissing(
                f"{shown} was not uploaded under this lease with this digest; upload it first.",
                f"{shown} 파일이 이 다이제스트로 업로드되지 않았습니다. 먼저 업로드하십시오.",
            )


def _name_final_files(attempt: Attempt, finalised: FinalisedMask | None) -> None:
    if finalised is None:
        return
    finals = {
        "mask.dcm": finalised.mask_storage_name,
        "report.json": finalised.report_storage_name,
    }
    for name, storage_name in finals.items():
        if storage_name:
            Artifact.objects.filter(attempt=attempt, name=name).update(
                final_storage_name=storage_name
            )


@transaction.atomic
def fail(
    *,
    request_id: UUID,
    lease_id: UUID,
    token: ApiToken,
    code: str,
    message: str,
    message_ko: str = "",
    is_retryable: bool,
    now: datetime | None = None,
) -> SegmentationRequest:
    """Take a failure from the current lease: another attempt after a pause, or the end.

    `message` is English; `message_ko` says the same, where whoever reports it can.

    Raises
    ------
    RequestNotFound, LeaseNeverIssued, NotYourJob, RequestCancelled, LeaseNotCurrent
    """
    now = now or timezone.now()
    request, attempt = _current(request_id, lease_id, token)
    fail_attempt(
        request,
        attempt,
        code=code,
        message=message,
        message_ko=message_ko,
        is_retryable=is_retryable,
        now=now,
    )
    return request


def fail_attempt(
    request: SegmentationRequest,
    attempt: Attempt,
    *,
    code: str,
    message: str,
    message_ko: str = "",
    is_retryable: bool,
    now: datetime,
) -> None:
    """End the current attempt as failed; `request` is locked."""
    code = clean_text(code, 64) or "failed"
    message = clean_text(message, 2000)
    changes.end_attempt(attempt, Attempt.Outcome.FAILED, now=now, code=code, message=message)
    give_back(
        request,
        now=now,
        actor=actor_of(attempt.worker_name),
        code=code,
        message=message,
        message_ko=clean_text(message_ko, 2000),
        is_retryable=is_retryable,
        pause=backoff(request.attempt_count),
    )


@transaction.atomic
def release(
    *, request_id: UUID, lease_id: UUID, token: ApiToken, now: datetime | None = None
) -> SegmentationRequest:
    """Give a request back unharmed; the attempt does not count.

    Raises
    ------
    RequestNotFound, LeaseNeverIssued, NotYourJob, RequestCancelled, LeaseNotCurrent
    """
    now = now or timezone.now()
    request, attempt = _current(request_id, lease_id, token)
    changes.end_attempt(attempt, Attempt.Outcome.RELEASED, now=now)
    releases = request.attempts.filter(outcome=Attempt.Outcome.RELEASED).count()
    pause = backoff(releases - _FREE_RELEASES) if releases > _FREE_RELEASES else timedelta(0)
    changes.move(
        request,
        Status.PENDING,
        actor=actor_of(attempt.worker_name),
        reason="released",
        now=now,
        available_at=now + pause,
        attempt_count=request.attempt_count - 1,
        progress=0.0,
        **WITHOUT_LEASE,
    )
    return request


def _current(
    request_id: UUID, lease_id: UUID, token: ApiToken
) -> tuple[SegmentationRequest, Attempt]:
    attempt = attempt_of(request_id, lease_id, token, is_locked=True)
    request = attempt.request
    if request.status == Status.CANCELLED:
        raise RequestCancelled
    if request.status != Status.PROCESSING or request.lease_id != lease_id:
        raise LeaseNotCurrent
    return request, attempt

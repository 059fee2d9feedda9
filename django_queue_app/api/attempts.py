"""Which attempt a worker's call is about, found before anything costly is done for it."""

from __future__ import annotations

from uuid import UUID

from django_queue_app import log_context
from django_queue_app.api.headers import parse_uuid
from django_queue_app.errors import (
    LeaseNeverIssued,
    LeaseNotCurrent,
    NotYourJob,
    RequestCancelled,
    RequestFinished,
    RequestNotFound,
)
from django_queue_app.models import ApiToken, Attempt, SegmentationRequest
from django_queue_app.states import Status


def request_key(request_id: str) -> UUID:
    """Read the id of an address; what is no UUID names no request.

    Raises
    ------
    RequestNotFound
    """
    key = parse_uuid(request_id)
    if key is None:
        raise RequestNotFound
    return key


def find_own_attempt(key: UUID, lease_id: UUID, token: ApiToken) -> Attempt:
    """Find the run of this lease, current or past.

    Raises
    ------
    RequestNotFound, LeaseNeverIssued, NotYourJob
    """
    attempts = Attempt.objects.select_related("request", "token")
    attempt = attempts.filter(lease_id=lease_id, request_id=key).first()
    if attempt is None:
        if not SegmentationRequest.objects.filter(pk=key).exists():
            raise RequestNotFound
        raise LeaseNeverIssued
    if not _is_of(token, attempt):
        raise NotYourJob
    log_context.bind(attempt=attempt.number, worker=attempt.worker_name)
    return attempt


def find_request_held(key: UUID, token: ApiToken) -> SegmentationRequest:
    """Find a request that this worker holds now: images are for who works on them, no longer.

    Raises
    ------
    RequestNotFound, NotYourJob
        It never held the request.
    RequestCancelled, RequestFinished, LeaseNotCurrent
        It holds it no more.
    """
    request = SegmentationRequest.objects.filter(pk=key).first()
    if request is None:
        raise RequestNotFound
    own = request.attempts.filter(token__name=token.name)
    if not own.exists():
        raise NotYourJob
    if request.status == Status.CANCELLED:
        raise RequestCancelled
    if request.is_finished:
        raise RequestFinished
    if request.lease_id is None or not own.filter(lease_id=request.lease_id).exists():
        raise LeaseNotCurrent
    log_context.bind(attempt=request.attempt_count, worker=request.processed_by)
    return request


def _is_of(token: ApiToken, attempt: Attempt) -> bool:
    # By name: a worker whose token was replaced still delivers what it had finished.
    return attempt.token_id == token.pk or attempt.token.name == token.name

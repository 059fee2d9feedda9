"""The one way in which a request's state changes: a conditional UPDATE and an event.

Only the service layer calls this, inside its transactions.
"""

from __future__ import annotations

import logging
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction
from django.dispatch import Signal

from django_queue_app import signals, statements
from django_queue_app.compiled import Together
from django_queue_app.errors import RequestNotFound, WrongState
from django_queue_app.models import Attempt, SegmentationRequest
from django_queue_app.states import Status, is_allowed

logger = logging.getLogger(__name__)

SERVER = "server"

# Whatever ends an attempt clears its lease in the same statement, or a delayed heartbeat would
# bring the job back to life.
WITHOUT_LEASE: dict[str, Any] = {
    "lease_id": None,
    "lease_expires_at": None,
    "deadline_at": None,
    "stage": "",
}


def lock(request_id: UUID) -> SegmentationRequest:
    """Return the request, locked until the transaction ends.

    Raises
    ------
    RequestNotFound
        No request has this id.
    """
    request = SegmentationRequest.objects.select_for_update().filter(pk=request_id).first()
    if request is None:
        raise RequestNotFound
    return request


def move(
    request: SegmentationRequest,
    to: Status,
    *,
    actor: str,
    reason: str,
    now: datetime,
    detail: str = "",
    together: Together | None = None,
    **fields: Any,
) -> None:
    """Take a request from the state in which it was read to another one.

    Parameters
    ----------
    request : SegmentationRequest
        As read in this transaction; it gets the new values.
    to : Status
        The new state.
    actor, reason, detail : str
        Who, why (snake_case) and, for people, more about it.
    now : datetime
        The server's time.
    together : Together, optional
        Takes the event along with other writes; the change itself is made at once.
    **fields
        Further columns of the same UPDATE.

    Raises
    ------
    WrongState
        The table doesn't allow it, or somebody else changed the request first.
    """
    old = Status(request.status)
    if not is_allowed(old, to):
        raise WrongState(
            f"The request is {old.value} and can't become {to.value}.",
            f"요청의 현재 상태({old.label})에서는 할 수 없습니다.",
        )
    values = {"status": to.value, "updated_at": now, **fields}
    unchanged = {"id": request.pk, "old_status": old, "old_lease_id": request.lease_id}
    update = statements.moving(tuple(values), request.lease_id is not None)
    if update.execute(**unchanged, **values) != 1:
        raise WrongState
    for name, value in values.items():
        setattr(request, name, value)
    note(request, old, actor=actor, reason=reason, detail=detail, now=now, together=together)


def note(
    request: SegmentationRequest,
    old: str,
    *,
    actor: str,
    reason: str,
    now: datetime,
    detail: str = "",
    together: Together | None = None,
) -> None:
    """Add the event of a change that was just made, and tell whoever waits after the commit."""
    statements.ADD_EVENT.write(
        together,
        request=request.pk,
        at=now,
        actor=actor[:200],
        from_status=old,
        to_status=request.status,
        reason=reason[:64],
        detail=detail,
    )
    logger.info(
        "request %s: %s -> %s (%s) by %s",
        request.pk,
        old or "new",
        request.status,
        reason,
        actor,
        extra={
            "event": "request_changed",
            "request_id": str(request.pk),
            "attempt": request.attempt_count,
            "worker": request.processed_by,
            "from_status": old,
            "to_status": request.status,
            "reason": reason,
            "actor": actor,
        },
    )
    announce(request)


def announce(request: SegmentationRequest) -> None:
    """Tell whoever waits for this request, or for any, once the transaction is committed."""
    facts = {"request_id": request.pk, "status": request.status, "lane": request.lane}
    if request.status == Status.PENDING:
        transaction.on_commit(partial(_send, signals.request_filed, facts))
    transaction.on_commit(partial(_send, signals.request_changed, facts))


def _send(signal: Signal, facts: dict[str, Any]) -> None:
    # What is committed is committed: a listener that fails must not turn the answer into a 500.
    for receiver, answer in signal.send_robust(sender=SegmentationRequest, **facts):
        if isinstance(answer, Exception):
            logger.error("a listener failed: %r", receiver, exc_info=answer)


def end_attempt(
    attempt: Attempt,
    outcome: Attempt.Outcome,
    *,
    now: datetime,
    code: str = "",
    message: str = "",
    together: Together | None = None,
) -> None:
    """Write how a run ended."""
    attempt.outcome = outcome
    attempt.ended_at = now
    attempt.failure_code = code
    attempt.failure_message = message
    values = {name: getattr(attempt, name) for name in statements.ENDED}
    statements.END_RUN.write(together, id=attempt.pk, **values)


def end_current_attempt(
    request: SegmentationRequest, outcome: Attempt.Outcome, *, now: datetime, code: str = ""
) -> None:
    """Write how the run that holds the request ended, if one does."""
    if request.lease_id is not None:
        current = Attempt.objects.get(lease_id=request.lease_id)
        end_attempt(current, outcome, now=now, code=code)

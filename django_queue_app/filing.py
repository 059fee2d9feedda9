"""What front ends may do: file a request, cancel it, try it again, change its priority."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils import timezone

from django_queue_app import changes
from django_queue_app.changes import SERVER, WITHOUT_LEASE
from django_queue_app.conf import conf
from django_queue_app.errors import InvalidRequest, RequestNotFound, WrongState
from django_queue_app.models import (
    PRIORITY_MAX,
    PRIORITY_MIN,
    Attempt,
    SegmentationRequest,
    fingerprint_of,
)
from django_queue_app.states import Lane, Order, Status, sources_of
from django_queue_app.text import clean_text

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser

logger = logging.getLogger(__name__)

MAX_SERIES = 32

_ORTHANC_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}|")
# Two clicks at once: the slower one finds the faster one's request at its second look. More looks
# are only needed when that request ends between the look and the write.
_LOOKS = 5


@dataclass(frozen=True, kw_only=True)
class Filed:
    """Answer of `file_request`."""

    request: SegmentationRequest
    is_deduplicated: bool


def file_request(
    *,
    main_series_id: str,
    series_ids: Sequence[str],
    lane: str,
    model: str = "",
    order: str = Order.GIVEN,
    priority: int = 0,
    is_forced: bool = False,
    requested_by: str,
    user: AbstractBaseUser | None = None,
    retry_of: SegmentationRequest | None = None,
    now: datetime | None = None,
) -> Filed:
    """File a request, or return the active one that asks for the same.

    Parameters
    ----------
    main_series_id : str
        Series on whose grid the mask will lie.
    series_ids : sequence of str
        All series in the model's order; the main one is put in front if it is missing.
    lane : str
        "lab" or "cloud".
    model : str
        Empty: the site's default model or, without one, the worker's.
    order : str
        "given": the series are in the model's channel order; "auto": the worker sorts them.
    priority : int
        -100 to 100; higher goes first.
    is_forced : bool
        File it even if the same is under way.
    requested_by : str
        Shown to people and to existing workers.
    user : User, optional
        Who is signed in.
    retry_of : SegmentationRequest, optional
        The failed or cancelled request that this one repeats.
    now : datetime, optional
        The server's time.

    Raises
    ------
    InvalidRequest
        A value can't be used.
    """
    now = now or timezone.now()
    ordered = [*([] if main_series_id in series_ids else [main_series_id]), *series_ids]
    model = model or conf.default_model
    _check_filing(ordered, lane, model, priority)
    _check_order(order)
    fingerprint = fingerprint_of(main_series_id, ordered, model, order)
    request = SegmentationRequest(
        main_series_id=main_series_id,
        series_ids=ordered,
        order=order,
        model=model,
        lane=lane,
        priority=priority,
        fingerprint=fingerprint,
        is_forced=is_forced,
        retry_of=retry_of,
        requested_by=clean_text(requested_by, 150),
        created_at=now,
        available_at=now,
        updated_at=now,
    )
    request.user_id = user.pk if user is not None else None
    for look in range(_LOOKS):
        same = None if is_forced else _active_one_like(fingerprint)
        if same is not None:
            return Filed(request=same, is_deduplicated=True)
        try:
            _insert(request, now)
            break
        except IntegrityError:
            # Another click was faster: its request is the answer, unless it has ended since.
            if is_forced or look == _LOOKS - 1:
                raise
    logger.info(
        "request %s routed to the %s lane",
        request.pk,
        lane,
        extra={"request_id": str(request.pk)},
    )
    return Filed(request=request, is_deduplicated=False)


@transaction.atomic
def _insert(request: SegmentationRequest, now: datetime) -> None:
    request.save(force_insert=True)
    changes.note(request, "", actor=request.requested_by, reason="filed", now=now)


def _active_one_like(fingerprint: str) -> SegmentationRequest | None:
    return (
        SegmentationRequest.objects.active().filter(fingerprint=fingerprint).newest_first().first()
    )


def _check_filing(series_ids: Sequence[str], lane: str, model: str, priority: int) -> None:
    for series_id in series_ids:
        if not _ORTHANC_ID.fullmatch(series_id):
            raise InvalidRequest(
                "A series id is five groups of eight hexadecimal digits.",
                "시리즈 ID는 8자리 16진수 다섯 묶음이어야 합니다.",
            )
    if len(series_ids) > MAX_SERIES:
        raise InvalidRequest(
            f"A request takes at most {MAX_SERIES} series.",
            f"한 요청에는 시리즈를 최대 {MAX_SERIES}개까지 넣을 수 있습니다.",
        )
    if lane not in Lane.values:
        raise InvalidRequest(
            "The lane is either lab or cloud.", "레인은 lab 또는 cloud여야 합니다."
        )
    if not _MODEL_NAME.fullmatch(model):
        raise InvalidRequest(
            "A model's name has letters, digits, dots, dashes and underscores.",
            "모델 이름에는 영문자, 숫자, 점, 하이픈, 밑줄만 쓸 수 있습니다.",
        )
    _check_priority(priority)


def _check_order(order: str) -> None:
    if order not in Order.values:
        raise InvalidRequest(
            "The order is either given or auto.", "order는 given 또는 auto여야 합니다."
        )


def _check_priority(priority: int) -> None:
    if not PRIORITY_MIN <= priority <= PRIORITY_MAX:
        raise InvalidRequest(
            f"The priority is a whole number from {PRIORITY_MIN} to {PRIORITY_MAX}.",
            f"우선순위는 {PRIORITY_MIN}에서 {PRIORITY_MAX} 사이의 정수여야 합니다.",
        )


@transaction.atomic
def cancel(*, request_id: UUID, actor: str, now: datetime | None = None) -> SegmentationRequest:
    """Cancel a pending or processing request; its worker is told at its next call.

    Raises
    ------
    RequestNotFound, WrongState
    """
    now = now or timezone.now()
    request = changes.lock(request_id)
    if request.status not in sources_of(Status.CANCELLED):
        raise WrongState(
            f"Only a waiting or running request can be cancelled; this one is {request.status}.",
            "대기 중이거나 처리 중인 요청만 취소할 수 있습니다.",
        )
    changes.end_current_attempt(request, Attempt.Outcome.CANCELLED, now=now)
    changes.move(
        request,
        Status.CANCELLED,
        actor=actor,
        reason="cancelled",
        now=now,
        finished_at=now,
        **WITHOUT_LEASE,
    )
    return request


def retry(
    *,
    request_id: UUID,
    actor: str,
    user: AbstractBaseUser | None = None,
    now: datetime | None = None,
) -> SegmentationRequest:
    """File a failed or cancelled request anew and return the new one.

    The old one stays as it ended: the table of states has no way back from there. The two are
    linked by `retry_of`. If the same is under way already, that one is returned.

    Raises
    ------
    RequestNotFound, WrongState
    """
    old = SegmentationRequest.objects.filter(pk=request_id).first()
    if old is None:
        raise RequestNotFound
    if old.status not in {Status.FAILED, Status.CANCELLED}:
        raise WrongState(
            f"Only a failed or cancelled request can be tried again; this one is {old.status}.",
            "실패했거나 취소된 요청만 다시 시도할 수 있습니다.",
        )
    return file_request(
        main_series_id=old.main_series_id,
        series_ids=old.series_ids,
        order=old.order,
        lane=old.lane,
        model=old.model,
        priority=old.priority,
        requested_by=actor,
        user=user,
        retry_of=old,
        now=now,
    ).request


@transaction.atomic
def set_priority(
    *, request_id: UUID, priority: int, actor: str, now: datetime | None = None
) -> SegmentationRequest:
    """Let a pending request go earlier or later.

    Raises
    ------
    RequestNotFound, WrongState, InvalidRequest
    """
    now = now or timezone.now()
    _check_priority(priority)
    request = changes.lock(request_id)
    waiting = SegmentationRequest.objects.filter(pk=request.pk, status=Status.PENDING)
    if waiting.update(priority=priority, updated_at=now) != 1:
        raise WrongState
    detail = f"{request.priority} -> {priority}"
    request.priority = priority
    changes.note(
        request, request.status, actor=actor, reason="priority_changed", detail=detail, now=now
    )
    return request


def mark_saved_to_pacs(
    *, request_id: UUID, seg_instance_id: str, now: datetime | None = None
) -> bool:
    """Note that the mask lies in the PACS; tell whether that is new.

    Raises
    ------
    RequestNotFound, WrongState
        There is no such request, or it has no result.
    """
    now = now or timezone.now()
    with transaction.atomic():
        request = changes.lock(request_id)
        if request.status != Status.COMPLETED:
            raise WrongState
        if request.saved_to_pacs_at is not None:
            return False
        SegmentationRequest.objects.filter(pk=request.pk).update(
            saved_to_pacs_at=now, seg_instance_id=seg_instance_id, updated_at=now
        )
        changes.note(request, request.status, actor=SERVER, reason="saved_to_pacs", now=now)
        return True

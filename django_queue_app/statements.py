"""What every poll, claim, heartbeat and completion asks of the database, built once.

The conditions themselves are those of `querysets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from django.contrib.auth import get_user_model
from django.db.models import Count, Exists, F, Q, QuerySet

from django_queue_app import wrong_clock
from django_queue_app.compiled import (
    Insert,
    Row,
    Select,
    Update,
    columns_given,
    given,
    instance_of,
)
from django_queue_app.models import ApiToken, Attempt, Event, SegmentationRequest, Worker
from django_queue_app.querysets import RequestQuerySet
from django_queue_app.states import Stage, Status

# A worker offers one model or a few; statements for more of them are built, and forgotten.
_NUMBERS_OF_MODELS = 16


# --- who calls


def _tokens() -> QuerySet[ApiToken]:
    tokens = ApiToken.objects.live().select_related("user")
    return tokens.filter(digest=given(ApiToken, "digest"))


_TOKEN = Select(_tokens)


def live_token(digest: str) -> ApiToken | None:
    """Return the live token of a digest, with its user."""
    for row in _TOKEN.rows(digest=digest):
        token, end = instance_of(ApiToken, row)
        if token.user_id is not None:
            token.user = instance_of(get_user_model(), row, end)[0]
        return token
    return None


# --- a claim


class Sight(NamedTuple):
    """What a claim sees before it begins a transaction."""

    worker: Worker
    is_clock_behind: bool
    was_granted: bool
    has_expired: bool
    has_ready: bool

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.was_granted or self.has_expired or self.has_ready)


def look(
    *, token: ApiToken, name: str, lease_id: UUID, models: Sequence[str], now: datetime
) -> Sight | None:
    """Look, in one query and without a lock, what a claim has to do; None for a new worker.

    Most polls find nothing, and must not queue for SQLite's one writer. What changes after the look
    is found all the same: a grant by the lease's uniqueness, an expired lease by the next claim.
    """
    rows = _look(len(models)).rows(
        token=token.pk,
        name=name,
        lease_id=lease_id,
        lane=token.lane,
        now=now,
        soon=now + wrong_clock.TOLERANCE,
        **_named(models),
    )
    for row in rows:
        worker, end = instance_of(Worker, row)
        is_seen, is_filed, *rest = map(bool, row[end:])
        return Sight(worker, is_seen or is_filed, *rest)
    return None


@lru_cache(_NUMBERS_OF_MODELS)
def _look(models: int) -> Select:
    def make() -> QuerySet[Worker]:
        now, soon = (
            given(SegmentationRequest, "created_at", "now"),
            given(Worker, "last_seen_at", "soon"),
        )
        seen, filed = wrong_clock.signs(soon)
        return Worker.objects.filter(**columns_given(Worker, "token", "name")).annotate(
            is_seen=Exists(seen),
            is_filed=Exists(filed),
            was_granted=Exists(Attempt.objects.filter(**columns_given(Attempt, "lease_id"))),
            has_expired=Exists(SegmentationRequest.objects.lease_expired(now)),
            has_ready=Exists(_ready(models)),
        )

    return Select(make)


def _ready(models: int) -> RequestQuerySet:
    return SegmentationRequest.objects.ready(
        given(SegmentationRequest, "available_at", "now"),
        lane=given(SegmentationRequest, "lane"),
        models=[given(SegmentationRequest, "model", name) for name in _names(models)],
    )


def _names(models: int) -> list[str]:
    return [f"model_{number}" for number in range(models)]


def _named(models: Sequence[str]) -> dict[str, str]:
    return dict(zip(_names(len(models)), models, strict=True))


def taking(
    candidates: RequestQuerySet, values: Mapping[str, Any]
) -> tuple[QuerySet[SegmentationRequest], dict[str, Any]]:
    """Return the one UPDATE that takes the best of some pending requests: its row, what it writes.

    Parameters
    ----------
    candidates : RequestQuerySet
        Which of them there are.
    values : mapping
        `lease_id`, `lease_expires_at`, `deadline_at`, `started_at` (now) and `processed_by`.
    """
    best = candidates.best_first().skipping_locked().values("pk")[:1]
    return SegmentationRequest.objects.filter(pk=best, status=Status.PENDING), {
        **values,
        "status": Status.PROCESSING,
        "attempt_count": F("attempt_count") + 1,
        "claim_count": F("claim_count") + 1,
        "offered_to": None,
        "offered_until": None,
        "stage": Stage.DOWNLOADING,
        "progress": 0.0,
        "updated_at": values["started_at"],
    }


TAKEN = ("lease_id", "lease_expires_at", "deadline_at", "started_at", "processed_by")


def take_best(
    *, token: ApiToken, models: Sequence[str], now: datetime, values: Mapping[str, Any]
) -> int:
    """Take the best request that is ready for a token and models; return 0 or 1."""
    return _take(len(models)).execute(
        token=token.pk, lane=token.lane, now=now, **_named(models), **values
    )


@lru_cache(_NUMBERS_OF_MODELS)
def _take(models: int) -> Update:
    def make() -> tuple[QuerySet[SegmentationRequest], dict[str, Any]]:
        candidates = _ready(models).not_offered_to_others(
            given(SegmentationRequest, "offered_to", "token"),
            given(SegmentationRequest, "offered_until", "now"),
        )
        return taking(candidates, columns_given(SegmentationRequest, *TAKEN))

    return Update(make)


_BY_LEASE = Select(
    lambda: SegmentationRequest.objects.filter(**columns_given(SegmentationRequest, "lease_id"))
)


def held_by(lease_id: UUID) -> SegmentationRequest:
    """Return the request that a lease holds."""
    (row,) = _BY_LEASE.rows(lease_id=lease_id)
    return instance_of(SegmentationRequest, row)[0]


# --- the watcher's look


def claimable(lanes: Sequence[str], now: datetime) -> list[Row]:
    """Count what a claim could take, by lane and model; expired leases are reaped by a claim."""
    named = {f"lane_{number}": lane for number, lane in enumerate(lanes)}
    return _claimable(tuple(named)).rows(now=now, **named)


@lru_cache
def _claimable(lanes: tuple[str, ...]) -> Select:
    now = given(SegmentationRequest, "available_at", "now")
    due = Q(status=Status.PENDING, available_at__lte=now)
    expired = Q(status=Status.PROCESSING, lease_expires_at__lte=now)
    is_free = Q(offered_until__isnull=True) | Q(offered_until__lte=now)
    in_lanes = [given(SegmentationRequest, "lane", name) for name in lanes]

    def make() -> QuerySet[Any, Any]:
        found = SegmentationRequest.objects.filter(due | expired, is_free, lane__in=in_lanes)
        return found.order_by().values_list("lane", "model").annotate(count=Count("id"))

    return Select(make)


NOTE_POLL = Update(
    lambda: (
        Worker.objects.filter(pk=given(Worker, "id")),
        columns_given(Worker, "last_seen_at"),
    )
)


# --- a run


def _runs() -> QuerySet[Attempt]:
    runs = Attempt.objects.select_related("request", "token")
    return runs.filter(**columns_given(Attempt, "lease_id", "request"))


_RUN = Select(_runs)
_LOCKED_RUN = Select(lambda: _runs().select_for_update(of=("request",)))


def run_of(lease_id: UUID, request_id: UUID, *, is_locked: bool = False) -> Attempt | None:
    """Return the run of a lease with its request, locked if wanted, and its token."""
    statement = _LOCKED_RUN if is_locked else _RUN
    rows = statement.rows(lease_id=lease_id, request=request_id)
    return _run_with_parts(rows[0]) if rows else None


def _run_with_parts(row: Row) -> Attempt:
    attempt, end = instance_of(Attempt, row)
    attempt.request, end = instance_of(SegmentationRequest, row, end)
    attempt.token, _ = instance_of(ApiToken, row, end)
    return attempt


RUN = (
    "request",
    "number",
    "lease_id",
    "token",
    "worker",
    "worker_name",
    "is_legacy",
    "started_at",
)
ADD_RUN = Insert(lambda: Attempt(**_by_attname(Attempt, RUN)))

ENDED = ("outcome", "ended_at", "failure_code", "failure_message")
END_RUN = Update(
    lambda: (
        Attempt.objects.filter(pk=given(Attempt, "id")),
        columns_given(Attempt, *ENDED),
    )
)

# --- a change

EVENT = ("request", "at", "actor", "from_status", "to_status", "reason", "detail")
ADD_EVENT = Insert(lambda: Event(**_by_attname(Event, EVENT)))


def _by_attname(model: Any, columns: Sequence[str]) -> dict[str, Any]:
    return {model._meta.get_field(one).attname: given(model, one) for one in columns}


@lru_cache(64)  # more than there are ways from one state to another
def moving(columns: tuple[str, ...], has_lease: bool) -> Update:
    """Return the UPDATE of one request that is still in the state and under the lease it was.

    Parameters
    ----------
    columns : tuple of str
        What is written.
    has_lease : bool
        Whether it was under a lease.
    """

    def make() -> tuple[QuerySet[SegmentationRequest], dict[str, Any]]:
        unchanged = SegmentationRequest.objects.filter(
            pk=given(SegmentationRequest, "id"),
            status=given(SegmentationRequest, "status", "old_status"),
            lease_id=given(SegmentationRequest, "lease_id", "old_lease_id") if has_lease else None,
        )
        return unchanged, columns_given(SegmentationRequest, *columns)

    return Update(make)

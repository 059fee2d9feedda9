"""Tables of the queue: requests, attempts, events, workers, artifacts, tokens."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from django_queue_app.errors import HistoryIsPermanent
from django_queue_app.indexes import REQUEST_INDEXES
from django_queue_app.pacs.index import (
    Instance,
    RemoteInstance,
    RemoteSeries,
    Series,
    ServedDigest,
    Study,
)
from django_queue_app.querysets import EventQuerySet, RequestQuerySet, TokenQuerySet
from django_queue_app.states import ACTIVE, Lane, Order, Stage, Status

__all__ = [
    "ApiToken",
    "Artifact",
    "Attempt",
    "Event",
    "Instance",
    "RemoteInstance",
    "RemoteSeries",
    "SegmentationRequest",
    "Series",
    "ServedDigest",
    "Study",
    "Worker",
]

PRIORITY_MIN = -100
PRIORITY_MAX = 100


def fingerprint_of(
    main_series_id: str, series_ids: Sequence[str], model: str, order: str = "given"
) -> str:
    """Return the digest of what makes two requests the same: main series, order, model."""
    parts: list[Any] = [main_series_id, list(series_ids), model]
    if order != "given":  # left out otherwise, so that requests filed before it still compare
        parts.append(order)
    text = json.dumps(parts, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class ApiToken(models.Model):
    """What a program proves itself with; only its digest is kept."""

    class Kind(models.TextChoices):
        """Whom the token stands for."""

        USER = "user", _("user")
        WORKER = "worker", _("worker")

    kind = models.CharField(max_length=8, choices=Kind.choices)
    name = models.CharField(max_length=150)
    lane = models.CharField(max_length=8, choices=Lane.choices, blank=True, default="")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="segmentation_tokens",
    )
    digest = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(default=timezone.now)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    objects = TokenQuerySet.as_manager()

    class Meta:
        """Names are unique among live tokens only, so that a name can be used again."""

        constraints = (
            models.UniqueConstraint(
                fields=["name"], condition=Q(revoked_at__isnull=True), name="live_token_name"
            ),
            models.CheckConstraint(
                condition=Q(kind="worker", user__isnull=True) & ~Q(lane="")
                | Q(kind="user", user__isnull=False, lane=""),
                name="token_of_lane_or_user",
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"

    @property
    def is_live(self) -> bool:
        """Whether it may still be used."""
        return self.revoked_at is None


class Worker(models.Model):
    """A worker program as it last described itself."""

    token = models.ForeignKey(ApiToken, on_delete=models.CASCADE, related_name="workers")
    name = models.CharField(max_length=150)
    lane = models.CharField(max_length=8, choices=Lane.choices)
    version = models.CharField(max_length=64, blank=True, default="")
    device = models.CharField(max_length=200, blank=True, default="")
    models_offered = models.JSONField(default=list, blank=True)
    is_legacy = models.BooleanField(default=False)
    first_seen_at = models.DateTimeField(default=timezone.now)
    last_seen_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        """One row per name under a token."""

        constraints = (
            models.UniqueConstraint(fields=["token", "name"], name="worker_name_per_token"),
        )

    def __str__(self) -> str:
        return self.name


class SegmentationRequest(models.Model):
    """One series (with its other sequences) to be segmented, and what became of it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    main_series_id = models.CharField(max_length=64, db_index=True)
    series_ids = models.JSONField()
    order = models.CharField(max_length=8, choices=Order.choices, default=Order.GIVEN)
    model = models.CharField(max_length=100, blank=True, default="")
    lane = models.CharField(max_length=8, choices=Lane.choices)
    priority = models.SmallIntegerField(default=0)
    fingerprint = models.CharField(max_length=64)
    is_forced = models.BooleanField(default=False)
    retry_of = models.ForeignKey(
        "self",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="retries",
        db_index=False,
    )
    requested_by = models.CharField(max_length=150, blank=True, default="")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="segmentation_requests",
        db_index=False,
    )
    created_at = models.DateTimeField(default=timezone.now)

    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    available_at = models.DateTimeField(default=timezone.now)
    attempt_count = models.PositiveSmallIntegerField(default=0)
    claim_count = models.PositiveIntegerField(default=0)
    lease_id = models.UUIDField(null=True, blank=True, unique=True)
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    deadline_at = models.DateTimeField(null=True, blank=True)
    offered_to = models.ForeignKey(
        ApiToken,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        db_index=False,
    )
    offered_until = models.DateTimeField(null=True, blank=True)
    stage = models.CharField(max_length=12, choices=Stage.choices, blank=True, default="")
    progress = models.FloatField(default=0.0)
    started_at = models.DateTimeField(null=True, blank=True)
    updated_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True, blank=True)
    processed_by = models.CharField(max_length=150, blank=True, default="")

    result = models.JSONField(null=True, blank=True)
    result_lease_id = models.UUIDField(null=True, blank=True)
    result_digest = models.CharField(max_length=64, blank=True, default="")
    seg_instance_id = models.CharField(max_length=64, blank=True, default="")
    saved_to_pacs_at = models.DateTimeField(null=True, blank=True)
    store_attempts = models.PositiveIntegerField(default=0)
    store_due_at = models.DateTimeField(null=True, blank=True)
    store_failure_code = models.CharField(max_length=64, blank=True, default="")
    failure_code = models.CharField(max_length=64, blank=True, default="")
    failure_message = models.TextField(blank=True, default="")
    failure_message_ko = models.TextField(blank=True, default="")

    objects = RequestQuerySet.as_manager()

    class Meta:
        """The constraints hold what the service layer promises, whoever writes."""

        constraints = (
            models.UniqueConstraint(
                fields=["fingerprint"],
                condition=Q(status__in=["pending", "processing"], is_forced=False),
                name="one_active_per_fingerprint",
            ),
            models.CheckConstraint(
                condition=Q(
                    status="processing",
                    lease_id__isnull=False,
                    lease_expires_at__isnull=False,
                    deadline_at__isnull=False,
                )
                | ~Q(status="processing")
                & Q(
                    lease_id__isnull=True,
                    lease_expires_at__isnull=True,
                    deadline_at__isnull=True,
                ),
                name="lease_while_processing",
            ),
            models.CheckConstraint(
                condition=Q(status="completed", result__isnull=False, result_lease_id__isnull=False)
                | ~Q(status="completed") & Q(result_lease_id__isnull=True),
                name="result_when_completed",
            ),
            models.CheckConstraint(
                condition=Q(progress__gte=0, progress__lte=1), name="progress_0_to_1"
            ),
            models.CheckConstraint(
                condition=Q(priority__gte=PRIORITY_MIN, priority__lte=PRIORITY_MAX),
                name="priority_in_range",
            ),
        )
        indexes = REQUEST_INDEXES

    def __str__(self) -> str:
        return f"{self.id} ({self.status})"

    @property
    def is_active(self) -> bool:
        """Pending or processing."""
        return self.status in ACTIVE

    @property
    def is_finished(self) -> bool:
        """Completed, failed or cancelled."""
        return not self.is_active

    def failure_in(self, language: str) -> str:
        """Why it failed, in "ko" where whoever reported it said so, else in English."""
        return (self.failure_message_ko if language == "ko" else "") or self.failure_message

    @property
    def is_saved_to_pacs(self) -> bool:
        """Whether the mask lies in the PACS."""
        return self.saved_to_pacs_at is not None

    def lease_expires_in_s(self, now: datetime | None = None) -> float:
        """Seconds until the current lease runs out; 0 without one."""
        return _seconds_until(self.lease_expires_at, now)

    def deadline_in_s(self, now: datetime | None = None) -> float:
        """Seconds until the current attempt must be over; 0 without one."""
        return _seconds_until(self.deadline_at, now)

    def visible_artifacts(self) -> models.QuerySet[Artifact]:
        """Return the artifacts of the one result, if there is one."""
        if self.result_lease_id is None:
            return Artifact.objects.none()
        return Artifact.objects.filter(request=self, attempt__lease_id=self.result_lease_id)


def _seconds_until(moment: datetime | None, now: datetime | None) -> float:
    if moment is None:
        return 0.0
    return max(0.0, (moment - (now or timezone.now())).total_seconds())


class Attempt(models.Model):
    """One claim's run; its lease stays known for ever, so that a late mask finds its request."""

    class Outcome(models.TextChoices):
        """How the run ended."""

        RUNNING = "running", _("running")
        COMPLETED = "completed", _("completed")
        FAILED = "failed", _("failed")
        RELEASED = "released", _("released")
        EXPIRED = "expired", _("lease ran out")
        CANCELLED = "cancelled", _("cancelled")
        SUPERSEDED = "superseded", _("another result was first")

    request = models.ForeignKey(
        SegmentationRequest, on_delete=models.PROTECT, related_name="attempts", db_index=False
    )
    number = models.PositiveIntegerField()
    lease_id = models.UUIDField(unique=True)
    token = models.ForeignKey(
        ApiToken, on_delete=models.PROTECT, related_name="attempts", db_index=False
    )
    worker = models.ForeignKey(
        Worker, on_delete=models.SET_NULL, null=True, blank=True, related_name="attempts"
    )
    worker_name = models.CharField(max_length=150)
    is_legacy = models.BooleanField(default=False)
    started_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(max_length=12, choices=Outcome.choices, default=Outcome.RUNNING)
    failure_code = models.CharField(max_length=64, blank=True, default="")
    failure_message = models.TextField(blank=True, default="")

    class Meta:
        """Numbered within the request, released claims included.

        Its constraint and its index begin with the foreign keys, which need none of their own.
        """

        constraints = (
            models.UniqueConstraint(fields=["request", "number"], name="attempt_number"),
        )
        indexes = (models.Index(fields=["token", "request"], name="attempt_token_request"),)

    def __str__(self) -> str:
        return f"{self.request_id} #{self.number} ({self.outcome})"


class Event(models.Model):
    """One change of a request: who, when, from, to, why. Added, never changed."""

    request = models.ForeignKey(
        SegmentationRequest, on_delete=models.PROTECT, related_name="events", db_index=False
    )
    at = models.DateTimeField(default=timezone.now)
    actor = models.CharField(max_length=200)
    from_status = models.CharField(max_length=10, choices=Status.choices, blank=True, default="")
    to_status = models.CharField(max_length=10, choices=Status.choices)
    reason = models.CharField(max_length=64)
    detail = models.TextField(blank=True, default="")

    objects = EventQuerySet.as_manager()

    class Meta:
        """Read in the order of writing, for one request."""

        indexes = (models.Index(fields=["request", "id"], name="event_request"),)

    def __str__(self) -> str:
        return f"{self.from_status} -> {self.to_status}: {self.reason}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Add the event; refuse to change one."""
        if not self._state.adding:
            raise HistoryIsPermanent
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:  # noqa: ARG002
        """Refuse."""
        raise HistoryIsPermanent


class Artifact(models.Model):
    """A file that a worker uploaded under one lease.

    `storage_name` holds the worker's bytes (their digest is `sha256`); `final_storage_name` holds
    what people are given once the patient's identity is back in it, for mask and report.
    """

    request = models.ForeignKey(
        SegmentationRequest, on_delete=models.PROTECT, related_name="artifacts"
    )
    attempt = models.ForeignKey(Attempt, on_delete=models.PROTECT, related_name="artifacts")
    name = models.CharField(max_length=64)
    sha256 = models.CharField(max_length=64)
    size_bytes = models.BigIntegerField()
    storage_name = models.CharField(max_length=255)
    final_storage_name = models.CharField(max_length=255, blank=True, default="")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        """One file of each name per lease."""

        constraints = (
            models.UniqueConstraint(fields=["attempt", "name"], name="artifact_name_per_lease"),
        )

    def __str__(self) -> str:
        return f"{self.request_id}/{self.name}"

    @property
    def served_storage_name(self) -> str:
        """Where the bytes that people are given lie."""
        return self.final_storage_name or self.storage_name

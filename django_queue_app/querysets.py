"""Queries with names: which requests are ready, which leases have run out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

from django.db import connections, models
from django.db.models import Q

from django_queue_app.errors import HistoryIsPermanent
from django_queue_app.states import ACTIVE, Status

if TYPE_CHECKING:
    from django_queue_app.models import (  # noqa: F401  (used in the quoted type parameters)
        ApiToken,
        Event,
        SegmentationRequest,
    )


# Fewer digits of an id are likelier to be meant as a word.
SHORTEST_ID = 4


class RequestQuerySet(models.QuerySet["SegmentationRequest"]):
    """Verbs of the queue."""

    def active(self) -> RequestQuerySet:
        """Pending or processing."""
        return self.filter(status__in=ACTIVE)

    def ready(self, now: datetime, *, lane: str, models: Sequence[str] = ()) -> RequestQuerySet:
        """Pending, in this lane, due, and for a model among `models` or for any."""
        return self.filter(
            status=Status.PENDING, lane=lane, available_at__lte=now, model__in=["", *models]
        )

    def not_offered_to_others(self, token: ApiToken, now: datetime) -> RequestQuerySet:
        """Leave out what is kept for an existing worker other than `token`'s."""
        return self.filter(
            Q(offered_until__isnull=True) | Q(offered_until__lte=now) | Q(offered_to=token)
        )

    def best_first(self) -> RequestQuerySet:
        """Order in which requests are served."""
        return self.order_by("-priority", "created_at", "id")

    def containing(self, text: str) -> RequestQuerySet:
        """Those that a person means by a word: who asked, who worked, the model, why it failed."""
        names = (
            *("requested_by", "processed_by", "model"),
            *("failure_code", "failure_message", "failure_message_ko"),
        )
        wanted = Q(main_series_id__startswith=text)
        for name in names:
            wanted |= Q(**{f"{name}__icontains": text})
        digits = text.replace("-", "").lower()
        with suppress(ValueError):
            # The beginning of an id, as lists show it; a range, for no database has a UUID's text.
            if len(digits) >= SHORTEST_ID:
                first, last = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
                wanted |= Q(pk__gte=first, pk__lte=last)
        return self.filter(wanted)

    def newest_first(self) -> RequestQuerySet:
        """Order in which people read them."""
        return self.order_by("-created_at", "-id")

    def lease_expired(self, now: datetime) -> RequestQuerySet:
        """Processing by a worker that has not renewed its lease."""
        return self.filter(status=Status.PROCESSING, lease_expires_at__lte=now)

    def skipping_locked(self) -> RequestQuerySet:
        """Lock the rows and pass over those that others hold, where the database can."""
        can_skip = connections[self.db].features.has_select_for_update_skip_locked
        # SQLite has neither; there an IMMEDIATE transaction lets in one writer at a time.
        return self.select_for_update(skip_locked=True) if can_skip else self


class TokenQuerySet(models.QuerySet["ApiToken"]):
    """Verbs of tokens."""

    def live(self) -> TokenQuerySet:
        """Not revoked."""
        return self.filter(revoked_at__isnull=True)


class EventQuerySet(models.QuerySet["Event"]):
    """History: it can be read and added to, and goes only with its whole request."""

    def forget(self) -> int:
        """Remove the history of a request that is itself removed (`pruning`); return how many."""
        return super().delete()[0]

    def update(self, **kwargs: Any) -> NoReturn:  # noqa: ARG002
        """Refuse."""
        raise HistoryIsPermanent

    def delete(self) -> NoReturn:
        """Refuse."""
        raise HistoryIsPermanent

    def bulk_update(self, *args: Any, **kwargs: Any) -> NoReturn:  # noqa: ARG002
        """Refuse."""
        raise HistoryIsPermanent

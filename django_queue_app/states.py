"""The states of a request and the only ways between them.

Status says who may act next; stage and progress (in `Stage` and a number) only tell a person how
far a worker has come, and decide nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class Status(TextChoices):
    """Who may act next. Existing clients know these five words."""

    PENDING = "pending", _("pending")
    PROCESSING = "processing", _("processing")
    COMPLETED = "completed", _("completed")
    FAILED = "failed", _("failed")
    CANCELLED = "cancelled", _("cancelled")


class Stage(TextChoices):
    """What the worker is doing with a request that is being processed."""

    DOWNLOADING = "downloading", _("downloading")
    LOADING = "loading", _("loading")
    INFERRING = "inferring", _("inferring")
    WRITING = "writing", _("writing")
    UPLOADING = "uploading", _("uploading")


class Lane(TextChoices):
    """A label that a request needs and a worker offers."""

    LAB = "lab", _("lab")
    CLOUD = "cloud", _("cloud")


class Order(TextChoices):
    """Whether the series of a request stand in the model's channel order already."""

    GIVEN = "given", _("as given")
    AUTO = "auto", _("sorted by the worker")


TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    # A mask may arrive after its lease ran out (-> completed), and the attempts may be used up in
    # the very moment in which nobody holds the request (-> failed happens from processing only).
    Status.PENDING: frozenset({Status.PROCESSING, Status.COMPLETED, Status.CANCELLED}),
    Status.PROCESSING: frozenset(
        {Status.PENDING, Status.FAILED, Status.COMPLETED, Status.CANCELLED}
    ),
    # A late mask beats expiry.
    Status.FAILED: frozenset({Status.COMPLETED}),
    Status.COMPLETED: frozenset(),
    Status.CANCELLED: frozenset(),
}

ACTIVE: frozenset[Status] = frozenset({Status.PENDING, Status.PROCESSING})
FINISHED: frozenset[Status] = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


def is_allowed(old: Status | str, new: Status | str) -> bool:
    """Tell whether a request may go from `old` to `new`."""
    return Status(new) in TRANSITIONS[Status(old)]


def sources_of(new: Status) -> frozenset[Status]:
    """Return every state from which a request may go to `new`."""
    return frozenset(old for old, allowed in TRANSITIONS.items() if new in allowed)

"""Settings of the HTTP side, read from Django's settings when they are needed."""

from __future__ import annotations

from django.conf import settings


def least_worker_version() -> str:
    """Oldest worker that may claim (`SEGMENTATION_MIN_WORKER_VERSION`); empty: any."""
    return str(getattr(settings, "SEGMENTATION_MIN_WORKER_VERSION", ""))

"""The archive of DICOM objects behind the site: `get_pacs()` gives the one the settings name."""

from __future__ import annotations

from functools import cache

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from django_queue_app.pacs.port import Pacs

ADAPTERS = {"embedded": "django_queue_app.pacs.embedded.EmbeddedPacs"}


def get_pacs() -> Pacs:
    """Return the archive that `SEGMENTATION_PACS` names (`embedded` unless set)."""
    return _make_pacs(str(getattr(settings, "SEGMENTATION_PACS", "embedded")))


@cache
def _make_pacs(name: str) -> Pacs:
    if name not in ADAPTERS:
        raise ImproperlyConfigured(
            f"SEGMENTATION_PACS: expected one of {', '.join(sorted(ADAPTERS))}, got {name!r}"
        )
    adapter: Pacs = import_string(ADAPTERS[name])()
    return adapter

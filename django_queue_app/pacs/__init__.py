"""The archive of DICOM objects behind the site: `get_pacs()` gives the one the settings name."""

from __future__ import annotations

from functools import lru_cache

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from django_queue_app.conf import conf
from django_queue_app.pacs.connection import Connection, configured
from django_queue_app.pacs.port import Pacs

EMBEDDED = "embedded"
REMOTE = {
    "dicomweb": "django_queue_app.pacs.dicomweb.DicomWebPacs",
    "orthanc": "django_queue_app.pacs.orthanc.OrthancPacs",
}


def get_pacs() -> Pacs:
    """Return the archive that `SEGMENTATION_PACS` names (`embedded` unless set).

    Raises
    ------
    ImproperlyConfigured
        No such kind of archive, or an address that can't be used.
    """
    kind = conf.pacs
    if kind == EMBEDDED:
        return _embedded()
    if kind not in REMOTE:
        known = ", ".join(sorted([EMBEDDED, *REMOTE]))
        raise ImproperlyConfigured(f"SEGMENTATION_PACS: expected one of {known}, got {kind!r}")
    return _remote(kind, configured())


@lru_cache(maxsize=1)
def _embedded() -> Pacs:
    adapter: Pacs = import_string("django_queue_app.pacs.embedded.EmbeddedPacs")()
    return adapter


@lru_cache(maxsize=4)
def _remote(kind: str, connection: Connection) -> Pacs:
    adapter: Pacs = import_string(REMOTE[kind])(connection)
    return adapter

"""System checks: what is wrong with a site's settings, said when it starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured

from django_queue_app import secret_file, site_storage
from django_queue_app.conf import conf
from django_queue_app.loopback import is_loopback
from django_queue_app.pacs import EMBEDDED, get_pacs
from django_queue_app.pacs.connection import Connection, configured


def _public_hosts() -> list[str]:
    return [host for host in settings.ALLOWED_HOSTS if not is_loopback(host)]


@register()
def check_settings(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:  # noqa: ARG001
    """Report every problem with this app's settings."""
    return [*_exposure(), *_times(), *_database(), *_shared_secrets(), *_archive()]


def _exposure() -> Iterable[CheckMessage]:
    public = ", ".join(_public_hosts())
    if settings.DEBUG and public:
        yield Error(
            f"DEBUG is on while the site answers for {public}: its error pages show settings.",
            hint="Unset DEBUG, or ALLOWED_HOSTS.",
            id="django_queue_app.E001",
        )
    if public and not settings.SESSION_COOKIE_SECURE:
        yield Warning(
            f"The site answers for {public}, but its session cookies also travel without TLS.",
            hint="Set CSRF_TRUSTED_ORIGINS=https://your.site, or SESSION_COOKIE_SECURE=true.",
            id="django_queue_app.W001",
        )
    if not conf.deidentify:
        yield Warning(
            "SEGMENTATION_DEIDENTIFY is false: workers are sent who the patients are.",
            hint="Unset it unless the workers stand in the hospital.",
            id="django_queue_app.W002",
        )
    key = str(getattr(settings, "SEGMENTATION_PSEUDONYM_KEY", ""))
    if key and len(key) < 32:
        yield Error(
            f"SEGMENTATION_PSEUDONYM_KEY has {len(key)} characters; pseudonyms could be undone.",
            hint="Use at least 32 random characters, or unset it: the site makes its own.",
            id="django_queue_app.E002",
        )


def _times() -> Iterable[CheckMessage]:
    if conf.deadline < conf.lease:
        yield Error(
            "SEGMENTATION_DEADLINE_SECONDS is shorter than SEGMENTATION_LEASE_SECONDS.",
            hint="The deadline of an attempt spans many leases; the defaults are 1800 and 90.",
            id="django_queue_app.E003",
        )
    if conf.max_attempts < 1:
        yield Error(
            "SEGMENTATION_MAX_ATTEMPTS is less than 1: nothing would ever be tried.",
            id="django_queue_app.E004",
        )


def _database() -> Iterable[CheckMessage]:
    database = settings.DATABASES["default"]
    mode = database.get("OPTIONS", {}).get("transaction_mode", "")
    if database["ENGINE"].endswith("sqlite3") and str(mode).upper() != "IMMEDIATE":
        yield Error(
            "SQLite is used without IMMEDIATE transactions: under load, work would be lost.",
            hint='Set DATABASES["default"]["OPTIONS"]["transaction_mode"] = "IMMEDIATE".',
            id="django_queue_app.E005",
        )


def _shared_secrets() -> Iterable[CheckMessage]:
    """Report secrets of one machine in a site that is made to run on several.

    A database server and a bucket are what machines share; a data folder is not. With a key of its
    own, each would sign its users out of the others, and couldn't undo the others' pseudonyms.
    """
    is_sqlite = settings.DATABASES["default"]["ENGINE"].endswith("sqlite3")
    if is_sqlite or not site_storage.is_configured():
        return
    kept = secret_file.read(conf.data_dir / "secret.key")
    local = [
        name
        for name, is_local in (
            ("SECRET_KEY", kept == settings.SECRET_KEY),
            ("SEGMENTATION_PSEUDONYM_KEY", not conf.has_given_pseudonym_key),
        )
        if is_local
    ]
    if local:
        yield Error(
            f"Database and files are shared by several machines, but {' and '.join(local)} would "
            "be each machine's own.",
            hint="Give every process of the site the same values by its environment.",
            id="django_queue_app.E006",
        )


def _archive() -> Iterable[CheckMessage]:
    try:
        get_pacs()
        connection = configured() if conf.pacs != EMBEDDED else None
    except ImproperlyConfigured as error:
        yield Error(
            str(error), hint="See docs/operating.md, the image archive.", id="django_queue_app.E010"
        )
        return
    if connection is not None and _sends_in_the_clear(connection):
        yield Warning(
            "SEGMENTATION_PACS_URL is plain http to another machine: patients' images and the "
            "archive's credentials can be read on the way.",
            hint="Use https, or a tunnel.",
            id="django_queue_app.W010",
        )
    if connection is not None and connection.ca and not Path(connection.ca).is_file():
        yield Error(
            "SEGMENTATION_PACS_CA names no file.",
            hint="Give the path of the authority's certificate in PEM.",
            id="django_queue_app.E011",
        )
    if conf.direct_fetch and conf.deidentify:
        yield Warning(
            "SEGMENTATION_DIRECT_FETCH is true: workers that read from the archive see who the "
            "patients are.",
            hint="Unset it unless the workers stand in the hospital.",
            id="django_queue_app.W011",
        )


def _sends_in_the_clear(connection: Connection) -> bool:
    parts = urlsplit(connection.url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")

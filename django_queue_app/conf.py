"""Settings of this app, read from Django's settings at the moment they are needed.

Every setting has a default, so the app works in any project; docs/operating.md lists them.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TypeVar, cast

from django.conf import settings

from django_queue_app import secret_file
from django_queue_app.states import Lane

T = TypeVar("T")


def _get(name: str, default: T) -> T:
    return cast(T, getattr(settings, name, default))


class Conf:
    """The app's settings as typed properties."""

    @property
    def data_dir(self) -> Path:
        """Folder for the site's own files: artifacts, the embedded DICOM store, secrets."""
        return Path(_get("SEGMENTATION_DATA_DIR", Path("var/site")))

    @property
    def use_local_inference(self) -> bool:
        """Route requests to the lab lane unless one says otherwise."""
        return bool(_get("USE_LOCAL_INFERENCE", False))

    @property
    def default_lane(self) -> Lane:
        """Lane of a request that doesn't name one."""
        return Lane.LAB if self.use_local_inference else Lane.CLOUD

    @property
    def default_model(self) -> str:
        """Model of a request that doesn't name one; empty: the worker's own default."""
        return str(_get("DEFAULT_MODEL", ""))

    @property
    def wait_s(self) -> float:
        """How long a segment call waits for its result."""
        return float(_get("SEGMENTATION_WAIT_SECONDS", 300))

    @property
    def lease(self) -> timedelta:
        """How long a claim or a heartbeat holds a request."""
        return timedelta(seconds=_get("SEGMENTATION_LEASE_SECONDS", 90))

    @property
    def deadline(self) -> timedelta:
        """The most that one attempt may take; no heartbeat extends a lease beyond it."""
        return timedelta(seconds=_get("SEGMENTATION_DEADLINE_SECONDS", 1800))

    @property
    def max_attempts(self) -> int:
        """Claims that may go wrong before a request fails for good."""
        return int(_get("SEGMENTATION_MAX_ATTEMPTS", 3))

    @property
    def backoff_base_s(self) -> float:
        """Pause before the second attempt; it doubles with each further one."""
        return float(_get("SEGMENTATION_BACKOFF_SECONDS", 5))

    @property
    def backoff_max_s(self) -> float:
        """Longest pause between attempts."""
        return float(_get("SEGMENTATION_BACKOFF_MAX_SECONDS", 300))

    @property
    def legacy_offer(self) -> timedelta:
        """How long a request shown to a worker without leases is kept for it."""
        return timedelta(seconds=_get("SEGMENTATION_LEGACY_OFFER_SECONDS", 60))

    @property
    def legacy_lease(self) -> timedelta:
        """How long a worker that sends no heartbeats may take."""
        return timedelta(seconds=_get("SEGMENTATION_LEGACY_LEASE_SECONDS", 1800))

    @property
    def deidentify(self) -> bool:
        """Serve pseudonymised instances to workers."""
        return bool(_get("SEGMENTATION_DEIDENTIFY", True))

    @property
    def has_given_pseudonym_key(self) -> bool:
        """Whether the settings name the key, so that every machine has the same."""
        return bool(_get("SEGMENTATION_PSEUDONYM_KEY", ""))

    @property
    def pseudonym_key(self) -> bytes:
        """Key of the pseudonyms; made once in the data folder unless the settings give one.

        Losing it breaks the way back from pseudonyms of jobs that are under way.
        """
        given = str(_get("SEGMENTATION_PSEUDONYM_KEY", ""))
        return (given or secret_file.read_or_create(self.data_dir / "pseudonym.key")).encode()

    @property
    def previous_pseudonym_key(self) -> bytes:
        """The key before the present one; masks made under it are still taken. Empty: none."""
        return str(_get("SEGMENTATION_PSEUDONYM_KEY_PREVIOUS", "")).encode()

    @property
    def direct_fetch(self) -> bool:
        """Let workers read from the PACS themselves, so that their masks name the originals."""
        return bool(_get("SEGMENTATION_DIRECT_FETCH", False))

    @property
    def allow_burned_in(self) -> bool:
        """Serve images that say themselves that text is burned into them."""
        return bool(_get("SEGMENTATION_ALLOW_BURNED_IN", False))

    @property
    def pacs(self) -> str:
        """Name of the adapter to the archive of images."""
        return str(_get("SEGMENTATION_PACS", "embedded"))

    @property
    def pacs_url(self) -> str:
        """Address of Orthanc, or of a DICOMweb server's root."""
        return str(_get("SEGMENTATION_PACS_URL", ""))

    @property
    def pacs_user(self) -> str:
        """Name for HTTP Basic."""
        return str(_get("SEGMENTATION_PACS_USER", ""))

    @property
    def pacs_password(self) -> str:
        """Password for HTTP Basic."""
        return str(_get("SEGMENTATION_PACS_PASSWORD", ""))

    @property
    def pacs_token(self) -> str:
        """Bearer token, instead of user and password."""
        return str(_get("SEGMENTATION_PACS_TOKEN", ""))

    @property
    def pacs_ca(self) -> str:
        """File of certificates to trust instead of the system's."""
        return str(_get("SEGMENTATION_PACS_CA", ""))

    @property
    def pacs_timeout_s(self) -> float:
        """Longest silence of the archive within a call."""
        return float(_get("SEGMENTATION_PACS_TIMEOUT_SECONDS", 30))

    @property
    def pacs_deadline_s(self) -> float:
        """The most that one call to the archive may take."""
        return float(_get("SEGMENTATION_PACS_DEADLINE_SECONDS", 300))

    @property
    def pacs_list_days(self) -> int:
        """List studies of so many days back only; 0: all."""
        return int(_get("SEGMENTATION_PACS_LIST_DAYS", 0))

    @property
    def input_cache_bytes(self) -> int:
        """Most that the cache of prepared inputs may hold."""
        return int(_get("SEGMENTATION_INPUT_CACHE_BYTES", 4 << 30))

    @property
    def input_cache_age(self) -> timedelta:
        """How long a prepared input is kept after its last use."""
        return timedelta(hours=_get("SEGMENTATION_INPUT_CACHE_HOURS", 24))

    @property
    def keep_requests_days(self) -> float:
        """How long finished requests are kept, with their files; 0: for ever."""
        return float(_get("SEGMENTATION_KEEP_REQUESTS_DAYS", 0))

    @property
    def keep_unused(self) -> timedelta:
        """How long series of the archive, digests and workers are kept after their last use."""
        return timedelta(days=_get("SEGMENTATION_KEEP_UNUSED_DAYS", 90))

    @property
    def max_upload_bytes(self) -> int:
        """Largest body of one upload (artifact, DICOM instance or zip)."""
        return int(_get("MAX_UPLOAD_BYTES", 1 << 30))


conf = Conf()

"""The entry of Django's STORAGES for a bucket, from one line."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

# A bucket that is away must not hold a call, and its turn, longer than a worker waits for it.
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
TRIES = 3


def from_url(url: str) -> dict[str, Any]:
    """Return backend and options for `s3://bucket/prefix`.

    Address and keys come from AWS's own variables: `AWS_ENDPOINT_URL_S3` for a store that is not
    Amazon's, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_DEFAULT_REGION`.

    Raises
    ------
    ImproperlyConfigured
        It is no such address, or django-storages is not installed.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise ImproperlyConfigured(
            f"SEGMENTATION_STORAGE: expected s3://bucket or s3://bucket/prefix, got {url!r}"
        )
    return {
        "BACKEND": "django_queue_app.s3_storage.WholeFileS3Storage",
        "OPTIONS": {
            "bucket_name": parts.netloc,
            "location": parts.path.strip("/"),
            "file_overwrite": True,  # names are unique, and a look before each write costs a call
            "default_acl": None,
            **_client_options(),
        },
    }


def _client_options() -> dict[str, Any]:
    try:
        from botocore.config import Config
    except ImportError as error:
        raise ImproperlyConfigured(
            "SEGMENTATION_STORAGE needs django-storages: pip install 'mri-segmentation-queue[s3]'"
        ) from error
    return {
        "client_config": Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"total_max_attempts": TRIES, "mode": "standard"},
            max_pool_connections=32,
        ),
    }

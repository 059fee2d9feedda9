from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_queue_app.checks import check_settings
from reference_site import object_storage

POSTGRESQL = {"default": {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {}}}
BUCKET = {
    "segmentation": {"BACKEND": "django_queue_app.s3_storage.WholeFileS3Storage", "OPTIONS": {}}
}
KEY = "k" * 40


@pytest.fixture
def shared(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    # Django's own `settings.DATABASES` can't be overridden in a test; the check only reads it.
    monkeypatch.setattr(settings._wrapped, "DATABASES", POSTGRESQL, raising=False)
    settings.STORAGES = {**settings.STORAGES, **BUCKET}
    settings.SECRET_KEY = KEY
    settings.SEGMENTATION_PSEUDONYM_KEY = KEY
    return settings


def _e006() -> list[str]:
    return [one.msg for one in check_settings(None) if one.id == "django_queue_app.E006"]


def test_secrets_of_the_environment_may_be_shared(shared: Any) -> None:
    assert _e006() == []


def test_a_pseudonym_key_of_one_machine_is_refused(shared: Any) -> None:
    shared.SEGMENTATION_PSEUDONYM_KEY = ""
    assert "SEGMENTATION_PSEUDONYM_KEY" in _e006()[0]


def test_a_secret_key_of_one_machine_is_refused(shared: Any, site_folder: Path) -> None:
    (site_folder / "secret.key").write_text(f"{KEY}\n")
    message = _e006()[0]
    assert "SECRET_KEY" in message
    assert "PSEUDONYM" not in message


def test_one_machine_keeps_its_own_secrets(shared: Any) -> None:
    shared.SEGMENTATION_PSEUDONYM_KEY = ""
    shared.STORAGES = {name: shared.STORAGES[name] for name in ("staticfiles",)}
    assert _e006() == []


@pytest.mark.parametrize("url", ["bucket", "s3://", "https://bucket/x", "s3://bucket?x=1"])
def test_what_is_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="SEGMENTATION_STORAGE"):
        object_storage.from_url(url)


def test_bucket_and_prefix_are_read() -> None:
    options = object_storage.from_url("s3://hospital/site-1/")["OPTIONS"]
    assert (options["bucket_name"], options["location"]) == ("hospital", "site-1")

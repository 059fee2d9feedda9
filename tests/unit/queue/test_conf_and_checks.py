from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from django_queue_app.checks import check_settings
from django_queue_app.conf import conf
from django_queue_app.states import Lane


def ids_of() -> set[str]:
    return {message.id or "" for message in check_settings(None)}


def test_settings_are_read_when_they_are_needed(settings: Any) -> None:
    assert conf.default_lane == Lane.CLOUD
    settings.USE_LOCAL_INFERENCE = True
    assert conf.default_lane == Lane.LAB
    settings.SEGMENTATION_LEASE_SECONDS = 5
    assert conf.lease == timedelta(seconds=5)


def test_without_settings_the_contracts_numbers_hold(settings: Any) -> None:
    for name in ("LEASE", "DEADLINE", "WAIT"):
        delattr(settings, f"SEGMENTATION_{name}_SECONDS")
    del settings.SEGMENTATION_MAX_ATTEMPTS
    assert conf.lease == timedelta(seconds=90)
    assert conf.deadline == timedelta(minutes=30)
    assert conf.wait_s == 300
    assert conf.max_attempts == 3
    assert conf.deidentify


def test_a_site_makes_its_own_pseudonym_key_and_keeps_it(site_folder: Path) -> None:
    key = conf.pseudonym_key
    assert len(key) >= 43
    assert conf.pseudonym_key == key
    assert (site_folder / "pseudonym.key").read_bytes().strip() == key


def test_the_reference_sites_defaults_raise_nothing() -> None:
    assert ids_of() == set()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"DEBUG": True, "ALLOWED_HOSTS": ["mri.example"]}, "django_queue_app.E001"),
        ({"DEBUG": True, "ALLOWED_HOSTS": ["*"]}, "django_queue_app.E001"),
        ({"ALLOWED_HOSTS": ["mri.example"]}, "django_queue_app.W001"),
        ({"SEGMENTATION_DEIDENTIFY": False}, "django_queue_app.W002"),
        ({"SEGMENTATION_PSEUDONYM_KEY": "short"}, "django_queue_app.E002"),
        ({"SEGMENTATION_DEADLINE_SECONDS": 10}, "django_queue_app.E003"),
        ({"SEGMENTATION_MAX_ATTEMPTS": 0}, "django_queue_app.E004"),
    ],
)
def test_a_dangerous_setting_is_named(
    settings: Any, changed: dict[str, Any], expected: str
) -> None:
    for name, value in changed.items():
        setattr(settings, name, value)
    assert expected in ids_of()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "mri.localhost"])
def test_loopback_hosts_may_be_debugged(settings: Any, host: str) -> None:
    settings.DEBUG = True
    settings.ALLOWED_HOSTS = [host]
    assert "django_queue_app.E001" not in ids_of()

"""Settings for production: nothing to warn of, and no DEBUG that anybody else could see."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.queue.test_reference_site import environment, run

PRODUCTION = {
    "ALLOWED_HOSTS": "mri.hospital.example",
    "CSRF_TRUSTED_ORIGINS": "https://mri.hospital.example",
    "BEHIND_TLS_PROXY": "true",
    "USE_LOCAL_INFERENCE": "true",
}


def test_the_deployment_check_has_nothing_to_say(tmp_path: Path) -> None:
    env = environment(tmp_path, **PRODUCTION)
    done = run("manage.py", "check", "--deploy", "--fail-level=WARNING", env=env)
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


@pytest.mark.parametrize(
    "changed",
    [{"SESSION_COOKIE_SECURE": "false"}, {"BEHIND_TLS_PROXY": "false"}, {"SECRET_KEY": "short"}],
)
def test_the_deployment_check_does_look(tmp_path: Path, changed: dict[str, str]) -> None:
    env = environment(tmp_path, **{**PRODUCTION, **changed})
    done = run("manage.py", "check", "--deploy", "--fail-level=WARNING", env=env)
    assert done.returncode != 0
    assert "WARNINGS" in done.stderr


@pytest.mark.parametrize("hosts", ["mri.hospital.example", "*", "localhost,10.0.0.7"])
def test_debug_is_for_this_machine_only(tmp_path: Path, hosts: str) -> None:
    env = environment(tmp_path, DEBUG="true", ALLOWED_HOSTS=hosts)
    done = run("-c", "import reference_site.settings", env=env)
    assert done.returncode != 0
    assert "DEBUG: expected false" in done.stderr


def test_debug_on_this_machine_starts(tmp_path: Path) -> None:
    env = environment(tmp_path, DEBUG="true")
    done = run("-c", "import reference_site.settings", env=env)
    assert done.returncode == 0, done.stderr


def test_a_log_format_that_is_none_is_named(tmp_path: Path) -> None:
    env = environment(tmp_path, SEGMENTATION_LOG_FORMAT="xml")
    done = run("-c", "import reference_site.settings", env=env)
    assert "SEGMENTATION_LOG_FORMAT: expected text or json, got 'xml'" in done.stderr

"""The reference site's settings and commands, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
SHOW = """
import json
from django.conf import settings as s
print(json.dumps({
    "debug": s.DEBUG, "key": s.SECRET_KEY, "hosts": s.ALLOWED_HOSTS,
    "engine": s.DATABASES["default"]["ENGINE"], "name": str(s.DATABASES["default"]["NAME"]),
    "options": s.DATABASES["default"].get("OPTIONS", {}),
    "local": s.USE_LOCAL_INFERENCE, "wait": s.SEGMENTATION_WAIT_SECONDS,
    "secure": s.SESSION_COOKIE_SECURE,
}))
"""


def environment(folder: Path, **changed: str) -> dict[str, str]:
    kept = {k: os.environ[k] for k in ("PATH", "HOME", "SYSTEMROOT", "TMP") if k in os.environ}
    return {
        **kept,
        "PYTHONUTF8": "1",
        "DJANGO_SETTINGS_MODULE": "reference_site.settings",
        "SEGMENTATION_DATA_DIR": str(folder),
        **changed,
    }


def run(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def show(folder: Path, **changed: str) -> dict[str, object]:
    done = run("-c", SHOW, env=environment(folder, **changed))
    assert done.returncode == 0, done.stderr
    shown: dict[str, object] = json.loads(done.stdout)
    return shown


def test_the_embedded_defaults_are_safe_and_work_in_any_folder(tmp_path: Path) -> None:
    folder = tmp_path / "자료 #1 %20?"
    shown = show(folder)
    assert shown["debug"] is False
    assert shown["hosts"] == ["localhost", "127.0.0.1", "[::1]"]
    assert shown["engine"] == "django.db.backends.sqlite3"
    assert shown["name"] == str(folder / "db.sqlite3")
    assert shown["options"]["transaction_mode"] == "IMMEDIATE"  # type: ignore[index]
    assert shown["local"] is False
    assert shown["wait"] == 300
    assert show(folder)["key"] == shown["key"]
    assert len(str(shown["key"])) >= 50
    migrated = run("manage.py", "migrate", "--verbosity=0", env=environment(folder))
    assert migrated.returncode == 0, migrated.stderr
    assert (folder / "db.sqlite3").exists()


def test_the_environment_changes_them(tmp_path: Path) -> None:
    shown = show(
        tmp_path,
        SECRET_KEY="given",
        ALLOWED_HOSTS="a.example, b.example",
        USE_LOCAL_INFERENCE="True",
        SEGMENTATION_WAIT_SECONDS="12",
        DATABASE_URL="postgres://u:p@db.example/mri",
        CSRF_TRUSTED_ORIGINS="https://a.example",
    )
    assert (shown["key"], shown["debug"], shown["local"]) == ("given", False, True)
    assert shown["hosts"] == ["a.example", "b.example"]
    assert shown["wait"] == 12
    assert (shown["engine"], shown["name"]) == ("django.db.backends.postgresql", "mri")
    assert shown["secure"] is True
    assert not (tmp_path / "secret.key").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEBUG", "maybe"),
        ("USE_LOCAL_INFERENCE", "lab"),
        ("SEGMENTATION_LEASE_SECONDS", "0"),
        ("SEGMENTATION_WAIT_SECONDS", "nan"),
        ("SEGMENTATION_MAX_ATTEMPTS", "x"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_at_start(
    tmp_path: Path, name: str, value: str
) -> None:
    done = run("-c", SHOW, env=environment(tmp_path, **{name: value}))
    assert done.returncode != 0
    assert f"{name}: expected" in done.stderr
    assert repr(value) in done.stderr


def test_the_deployment_check_finds_no_error(tmp_path: Path) -> None:
    done = run("manage.py", "check", "--fail-level=WARNING", env=environment(tmp_path))
    assert done.returncode == 0, done.stderr


def test_the_migrations_are_complete(tmp_path: Path) -> None:
    done = run("manage.py", "makemigrations", "--check", "--dry-run", env=environment(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["reference_site.asgi", "reference_site.wsgi"])
def test_both_entries_for_servers_start(tmp_path: Path, module: str) -> None:
    code = f"import {module} as entry; assert callable(entry.application)"
    done = run("-W", "error", "-c", code, env=environment(tmp_path))
    assert done.returncode == 0, done.stderr


# --- the cloud worker
FAKE_WORKER = """
import json, os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "seen.json").write_text(json.dumps({
    name: os.environ.get(name) for name in ("WORKER_TOKEN", "DJANGO_API_URL", "DJANGO_API_AUTH")
}))
starts = folder / "starts"
starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
mode = sys.argv[2]
if mode == "wait":
    def end(number, frame):
        (folder / "ended").write_text("cleanly")
        sys.exit(0)
    signal.signal(signal.SIGTERM, end)
    (folder / "ready").write_text("")
    time.sleep(60)
sys.exit(70 if mode == "broken_once" and starts.read_text() == "x" else int(sys.argv[3]))
"""


def cloud_worker(folder: Path, mode: str, code: int = 0) -> list[str]:
    program = folder / "fake_worker.py"
    program.write_text(FAKE_WORKER, encoding="utf-8")
    fake = [sys.executable, str(program), str(folder), mode, str(code)]
    return ["manage.py", "run_cloud_worker", "--url", "http://site:1", "--program", *fake]


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    env = environment(tmp_path / "site", DJANGO_API_AUTH="old:secret")
    assert run("manage.py", "migrate", "--verbosity=0", env=env).returncode == 0
    return env


def tokens_of(site: dict[str, str]) -> list[dict[str, str]]:
    done = run("manage.py", "segmentation_token", "list", "--json", env=site)
    rows: list[dict[str, str]] = json.loads(done.stdout)
    return rows


def test_the_cloud_worker_gets_a_token_that_ends_with_it(
    tmp_path: Path, site: dict[str, str]
) -> None:
    done = run(*cloud_worker(tmp_path, "end", 0), env=site)
    assert done.returncode == 0, done.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["WORKER_TOKEN"].startswith("mri_")
    assert seen["DJANGO_API_URL"] == "http://site:1"
    assert seen["DJANGO_API_AUTH"] is None
    (token,) = tokens_of(site)
    assert token["lane"] == "cloud"
    assert token["revoked_at"]


def test_a_worker_with_a_broken_engine_is_started_again(
    tmp_path: Path, site: dict[str, str]
) -> None:
    done = run(*cloud_worker(tmp_path, "broken_once", 0), env=site)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "starts").read_text() == "xx"


def test_another_exit_code_is_passed_through(tmp_path: Path, site: dict[str, str]) -> None:
    done = run(*cloud_worker(tmp_path, "end", 78), env=site)
    assert done.returncode == 78
    assert "exit code 78" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_a_stop_is_passed_on_and_the_token_revoked(tmp_path: Path, site: dict[str, str]) -> None:
    command = [sys.executable, *cloud_worker(tmp_path, "wait")]
    with subprocess.Popen(command, cwd=REPOSITORY, env=site) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "ready").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (worker,) = psutil.Process(process.pid).children()
        assert worker.nice() > psutil.Process(process.pid).nice()  # pages before inference
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    assert (tmp_path / "ended").read_text() == "cleanly"
    assert tokens_of(site)[0]["revoked_at"]

"""`doctor`, as a person and as a program read it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.worker_daemon.fake_site import TOKEN, FakeSite, running

REPOSITORY = Path(__file__).resolve().parents[3]


def doctor(config: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker", "--config", str(config), "doctor", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "PYTHONUTF8": "1", **environ},
    )


def test_bad_settings_are_listed_and_end_with_78(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("server: {wait_s: fast}\nwroker: {}\n")
    done = doctor(config)
    assert done.returncode == 78
    assert "fail  settings: config.yaml: server.wait_s: expected a number > 0" in done.stdout
    assert "wroker: unknown key, did you mean 'worker'?" in done.stdout
    assert f"Edit {config}." in done.stdout
    done = doctor(config, DEVICE="gpu")
    assert "DEVICE: expected auto, cpu, cuda or cuda:N, or several of them" in done.stdout
    assert "Correct it in the environment." in done.stdout


@pytest.mark.slow
def test_each_check_has_a_verdict_and_says_what_to_do(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    models = "default_model: m\nmodels: {m: {path: nowhere}}\n"
    config.write_text(f"{models}inference: {{device: [cpu, cuda:77]}}\n")
    with running(FakeSite()) as site:
        done = doctor(config, "--json", DJANGO_API_URL=site.url, WORKER_TOKEN=TOKEN)
    body = json.loads(done.stdout)
    checks = {check["name"]: check for check in body["checks"]}
    assert done.returncode == 78
    assert body["ok"] is False
    names = ("python", "console", "settings", "outbox", "transport", "site", "inference process")
    for name in names:
        assert checks[name]["verdict"] == "ok", checks[name]
    assert checks["device"]["verdict"] == "fail"
    assert checks["device"]["found"].startswith("cuda:77: ")
    assert checks["default model"]["verdict"] == "fail"
    assert "models add m" in checks["default model"]["advice"]

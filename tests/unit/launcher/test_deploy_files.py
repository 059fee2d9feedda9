"""What `deploy/` promises must fit what the programs do."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
DEPLOY = REPOSITORY / "deploy"


class _Unit(configparser.ConfigParser):
    def __init__(self, name: str) -> None:
        super().__init__(strict=False, interpolation=None)
        self.optionxform = str  # type: ignore[assignment,method-assign]
        text = (DEPLOY / name).read_text(encoding="utf-8").replace("\\\n", " ")
        self.read_string(text)


@pytest.mark.parametrize("name", ["mri-site.service", "mri-worker.service"])
def test_units_start_modules_of_this_project_unprivileged(name: str) -> None:
    service = _Unit(name)["Service"]
    command = service["ExecStart"]
    assert re.search(r"\.venv/bin/python -m (worker run|uvicorn reference_site\.asgi)", command)
    assert service["User"] == service["StateDirectory"]
    assert service["NoNewPrivileges"] == "yes"
    assert service["EnvironmentFile"]


def test_worker_unit_restarts_for_the_exit_codes_that_a_restart_mends() -> None:
    service = _Unit("mri-worker.service")["Service"]
    assert service["Restart"] == "on-failure"
    prevented = set(map(int, service["RestartPreventExitStatus"].split()))
    assert prevented == {2, 77, 78}
    assert service["KillMode"] == "mixed"


def test_proxy_waits_longer_than_the_site() -> None:
    text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    waits = [int(found) for found in re.findall(r"proxy_read_timeout (\d+)s", text)]
    assert waits
    assert min(waits) > 300


def test_ci_script_is_valid_and_executable() -> None:
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)

"""Sixteen processes, one queue, and SIGKILL; `tests.faults.race` runs it longer."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.live_site import REPOSITORY
from tests.support.postgres import why_missing


@pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]
)
def test_sixteen_processes_lose_and_double_nothing_while_some_are_killed(database: str) -> None:
    if database == "postgresql" and why_missing():
        pytest.skip(why_missing())
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.race", "--jobs", "200", "--database", database],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["jobs"], told["lost"], told["doubled"]) == (200, 0, 0)
    assert told["killed"] == 12

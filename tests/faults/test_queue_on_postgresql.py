"""The queue's own tests once more, on PostgreSQL: what holds on SQLite must hold there too."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.live_site import REPOSITORY

# Those about the site's settings and pages have no database to differ by.
FOLDER = "tests/integration/queue"
ONLY_SQLITE = "test_tokens.py::test_a_call_does_not_wait_for_the_writer_to_note_its_use"
ELSEWHERE = ("test_reference_site", "test_static_files", "test_commands_without_database")


@pytest.mark.postgresql
def test_the_services_keep_their_promises_on_postgresql(postgres_url: str) -> None:
    left_out = [f"--ignore={FOLDER}/{name}.py" for name in ELSEWHERE]
    left_out.append(f"--deselect={FOLDER}/{ONLY_SQLITE}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", FOLDER, *left_out],
        env={**os.environ, "DATABASE_URL": postgres_url, "QUEUE_STORIES": "8"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-8000:]

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("command", [["segmentation_token", "list"], ["run_cloud_worker"]])
def test_a_database_without_tables_is_told_in_one_sentence(
    command: list[str], tmp_path: Path
) -> None:
    environment = {**os.environ, "SEGMENTATION_DATA_DIR": str(tmp_path)}
    environment.pop("DATABASE_URL", None)
    told = subprocess.run(
        [sys.executable, "manage.py", *command],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 1
    assert "manage.py migrate" in told.stderr
    assert "Traceback" not in told.stderr

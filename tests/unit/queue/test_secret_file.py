from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from django_queue_app import secret_file


def test_a_secret_is_made_once_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "새 폴더" / "secret.key"
    first = secret_file.read_or_create(path)
    assert len(first) >= 43
    assert secret_file.read_or_create(path) == first
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_only_its_owner_may_read_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    secret_file.read_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_processes_that_start_at_once_agree_on_the_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    with ThreadPoolExecutor(8) as pool:
        secrets = set(pool.map(lambda _: secret_file.read_or_create(path), range(32)))
    assert len(secrets) == 1

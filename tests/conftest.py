"""What all tests share: a data folder and a database of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connections

# What is said is compared in English, on a Korean system, too.
os.environ["WORKER_LANG"] = "en"


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Use SQLite as a site does: a file with WAL, which threads and processes can share."""
    settings = connections["default"].settings_dict
    if settings["ENGINE"].endswith("sqlite3"):
        settings["TEST"]["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")


@pytest.fixture(autouse=True)
def site_folder(settings: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give each test a data folder of its own, so that none writes into the developer's site."""
    folder = tmp_path_factory.mktemp("site")
    settings.SEGMENTATION_DATA_DIR = folder
    return folder


@pytest.fixture(autouse=True)
def fresh_limits() -> None:
    """Let no test meet a limit because of the calls of another."""
    cache.clear()

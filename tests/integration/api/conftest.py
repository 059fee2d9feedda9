"""A site with two small MR series, in this process and as a real server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.live_site import LiveSite, start_live, stop_live
from tests.support.small_series import mr_series, store


@dataclass
class Site:
    """What a test needs of a site in this process."""

    series_id: str
    other_series_id: str
    user: Any
    user_secret: str
    worker_token: Any
    worker_secret: str

    def as_user(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.user_secret}"}

    def as_worker(self, **headers: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.worker_secret}", **headers}


@pytest.fixture
def site(db: None, settings: Any, tmp_path: Path) -> Site:
    from django.contrib.auth import get_user_model

    from django_queue_app import tokens

    settings.SEGMENTATION_DATA_DIR = tmp_path
    settings.USE_LOCAL_INFERENCE = True
    settings.SEGMENTATION_WAIT_SECONDS = 0.3
    user = get_user_model().objects.create_user("doctor")
    _, user_secret = tokens.create(name="page", kind="user", user=user)
    worker_token, worker_secret = tokens.create(name="lab-pc", kind="worker", lane="lab")
    return Site(
        series_id=store(mr_series()),
        other_series_id=store(mr_series(description="FLAIR")),
        user=user,
        user_secret=user_secret,
        worker_token=worker_token,
        worker_secret=worker_secret,
    )


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    started = start_live(tmp_path_factory.mktemp("live"))
    yield started
    stop_live(started)

"""The second request for a series fetches nothing: counted at the site itself."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from django_queue_app.privacy.pseudonymise import pseudonymise
from django_queue_app.privacy.pseudonyms import Pseudonyms
from tests.integration.worker_daemon.conftest import RunningWorker, wait_for
from tests.support.counted_site import CALLS
from tests.support.live_site import LiveSite, start_live, stop_live
from tests.support.small_series import mr_instance
from worker.adapters.input_cache import InputCache
from worker.settings import Settings, load_settings
from worker.settings_inputs import CacheSettings

CHILD = [
    sys.executable,
    str(Path(__file__).parents[1] / "worker_daemon" / "threshold_child.py"),
]
COUNTED = [sys.executable, "-m", "uvicorn", "tests.support.counted_site:application"]
CONFIG = """
server: {{url: "{url}", wait_s: 1, poll_interval_s: 0.1, start_timeout_s: 30}}
worker: {{name: lab-pc, work_dir: work, drain_s: 1, least_free_mb: 1}}
inference: {{device: cpu, stall_s: 60}}
default_model: fake
models: {{fake: {{path: fake_model}}}}
cache: {{max_bytes: {max_bytes}}}
"""


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calls") / "calls.log"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, calls: Path) -> Iterator[LiveSite]:
    site = start_live(tmp_path_factory.mktemp("live"), command=list(COUNTED), **{CALLS: str(calls)})
    yield site
    stop_live(site)


@pytest.fixture
def page(live: LiveSite) -> Iterator[httpx.Client]:
    with live.client() as client:
        yield client


def settings_of(live: LiveSite, folder: Path, *, max_bytes: int = 1_000_000) -> Settings:
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(url=live.url, max_bytes=max_bytes))
    return load_settings(config, {"WORKER_TOKEN": live.secrets["lab"]})


def segment(live: LiveSite, page: httpx.Client, series: str) -> str:
    """File a request and wait for its mask."""
    series_id = live.series[series]
    answer = page.post(
        f"/series/{series_id}/segment/",
        json={"sequence_series_ids": [series_id], "model": "fake", "force": True},
        headers={"Prefer": "respond-async"},
    )
    request_id = str(answer.json()["request_id"])

    def status() -> str:
        return str(page.get(f"/status/{request_id}/").json()["status"])

    wait_for(lambda: status() in ("completed", "failed"), 60)
    assert status() == "completed"
    return request_id


def images_fetched(calls: Path, request_id: str) -> list[str]:
    """Give the calls for images, each for one or several."""
    lines = calls.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if f"/requests/{request_id}/instances/" in line]


@pytest.fixture
def worker(live: LiveSite, tmp_path: Path) -> Iterator[RunningWorker]:
    running = RunningWorker(settings_of(live, tmp_path), child=CHILD)
    yield running
    running.end(times=2)


def test_the_second_request_for_a_series_costs_no_bytes(
    live: LiveSite, page: httpx.Client, calls: Path, worker: RunningWorker, tmp_path: Path
) -> None:
    first = segment(live, page, "t1")
    assert len(images_fetched(calls, first)) == 1, "all in one answer"
    second = segment(live, page, "t1")
    assert images_fetched(calls, second) == []
    other = segment(live, page, "t2")
    assert len(images_fetched(calls, other)) == 1, "another series is another content"

    damaged = next((tmp_path / "work" / "cache").glob("??/*"))
    damaged.write_bytes(bytes(damaged.stat().st_size))
    third, fourth = segment(live, page, "t1"), segment(live, page, "t2")
    assert len(images_fetched(calls, third) + images_fetched(calls, fourth)) == 1
    masks = [page.get(f"/requests/{one}/mask.nii.gz").content for one in (first, second, third)]
    assert masks[0] == masks[1] == masks[2]


def test_without_a_cache_every_request_fetches(
    live: LiveSite, page: httpx.Client, calls: Path, tmp_path: Path
) -> None:
    worker = RunningWorker(settings_of(live, tmp_path, max_bytes=0), child=CHILD)
    try:
        requests = [segment(live, page, "t1") for _ in range(2)]
    finally:
        worker.end(times=2)
    assert [len(images_fetched(calls, one)) for one in requests] == [1, 1]
    assert not (tmp_path / "work" / "cache").exists()


def test_bytes_served_before_a_rotation_of_the_pseudonym_key_are_not_found_after_it(
    tmp_path: Path,
) -> None:
    cache = InputCache(tmp_path, CacheSettings(max_bytes=1_000_000, max_age_s=60))
    original, target = mr_instance(0), tmp_path / "target"
    old, again, new = (
        pseudonymise(original, Pseudonyms(key=key)) for key in (b"old", b"old", b"new")
    )
    target.write_bytes(old)
    cache.put(hashlib.sha256(old).hexdigest(), target)
    assert cache.take(hashlib.sha256(again).hexdigest(), len(again), target)
    assert not cache.take(hashlib.sha256(new).hexdigest(), len(new), target)

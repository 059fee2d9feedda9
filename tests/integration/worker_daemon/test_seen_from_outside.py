"""Metrics and JSON logs of a worker that works."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.worker_daemon.conftest import RunningWorker, wait_for
from tests.integration.worker_daemon.fake_site import FakeSite
from tests.support.live_site import free_port
from worker.core.errors import SettingsError
from worker.log import configure
from worker.metrics import Metrics, MetricsServer
from worker.settings import LogSettings, MetricsSettings, Settings


def scrape(port: int) -> dict[tuple[str, ...], float]:
    """Give each number by its name and its labels' values, in the order of the labels' names."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_sees_claims_cases_stages_children_and_what_waits(
    site: FakeSite, worker_settings: Settings
) -> None:
    port = free_port()
    metrics = MetricsSettings(port=port, address="127.0.0.1")
    site.fault_always("POST", "complete-request/kept", "status", 503)
    ends = {"good": b"succeed", "bad": b"error", "lost": b"crash", "kept": b"succeed"}
    for name, content in ends.items():
        site.file(name, content)
    worker = RunningWorker(dataclasses.replace(worker_settings, metrics=metrics))
    try:
        wait_for(lambda: scrape(port).get(("mri_worker_outbox_size",)) == 1)
        wait_for(lambda: scrape(port)[("mri_worker_claims_total", "granted")] == 4)
        wait_for(lambda: ("mri_worker_claims_total", "nothing") in scrape(port))
        seen = scrape(port)
        site.fault_always("POST", "claim", "status", 503)
        wait_for(lambda: scrape(port)[("mri_worker_site_reachable",)] == 0)
    finally:
        worker.end(times=2)
    assert seen[("mri_worker_attempts_total", "", "completed")] == 2
    assert seen[("mri_worker_attempts_total", "missing_slices", "failed")] == 1
    assert seen[("mri_worker_attempts_total", "engine_crashed", "failed")] == 1
    assert seen[("mri_worker_stage_seconds_count", "inferring")] == 2
    assert seen[("mri_worker_child_starts_total",)] == 2
    assert seen[("mri_worker_outbox_oldest_seconds",)] >= 0
    assert seen[("mri_worker_site_reachable",)] == 1
    with pytest.raises(httpx.TransportError):
        scrape(port)


def test_metrics_are_off_by_default_and_a_port_in_use_is_one_sentence(
    worker_settings: Settings,
) -> None:
    assert worker_settings.metrics == MetricsSettings(port=None, address="127.0.0.1")
    taken = MetricsSettings(port=free_port(), address="127.0.0.1")
    server = MetricsServer(taken, Metrics())
    try:
        with pytest.raises(SettingsError, match=r"choose another metrics\.port"):
            MetricsServer(taken, Metrics())
    finally:
        server.close()


@pytest.fixture
def json_log(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "log" / "worker.log"
    settings = LogSettings(level="debug", format="json", file=path, max_bytes=10**7, backups=1)
    root = logging.getLogger()
    kept, level = list(root.handlers), root.level
    root.handlers = []
    configure(settings, worker="lab-pc", quiet=True)
    yield path
    for handler in root.handlers:
        handler.close()
    root.handlers = kept
    root.setLevel(level)


def test_every_line_of_a_case_names_request_attempt_and_worker(
    site: FakeSite, worker_settings: Settings, json_log: Path
) -> None:
    site.expires_in = 0.6
    site.fault_always("POST", "complete-request/late", "status", 503)
    site.fault_once("POST", "r1/heartbeat", "status", 503)
    late = site.file("late", b"succeed")
    wait_site = RunningWorker(worker_settings)
    try:
        wait_for(lambda: any("complete-request" in path for path in site.paths("POST")))
        request = site.file("r1", b"brief")
        wait_for(lambda: request.result)
    finally:
        wait_site.end(times=2)
    assert late.result is None
    lines = [json.loads(line) for line in json_log.read_text(encoding="utf-8").splitlines()]
    assert {line["worker"] for line in lines} == {"lab-pc"}
    events = {line["event"]: line for line in lines if line.get("request_id") == "r1"}
    for event in ("case_started", "stage", "heartbeat_failed", "case_finished"):
        assert events[event]["attempt"] == 1, event
    kept = [line for line in lines if line["event"] == "delivery_kept"]
    assert {line["request_id"] for line in kept} == {"late"}
    ready = next(line for line in lines if line["event"] == "worker_ready")
    assert "request_id" not in ready

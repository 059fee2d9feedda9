"""The whole worker against a site that is slow, is away, or answers through a proxy's pages."""

from __future__ import annotations

import dataclasses
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.worker_daemon.conftest import RunningWorker, wait_for
from tests.integration.worker_daemon.fake_site import FakeSite, running
from tests.support.made_results import no_lesion
from worker.adapters.queue_http import HttpQueue, WorkerInfo
from worker.core import errors
from worker.delivery import Courier
from worker.outbox import Outbox
from worker.settings import Settings

Start = Callable[..., RunningWorker]
INFO = WorkerInfo(name="lab-pc", device="cpu", models=("fake",))
CALLS = {
    "claim": ("POST", "claim"),
    "image": ("GET", "instances"),
    "artifact": ("PUT", "artifacts/mask.dcm"),
    "completion": ("POST", "complete-request"),
}
RESULT = no_lesion()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a kept result be tried again soon."""
    monkeypatch.setattr("worker.delivery._FIRST_PAUSE_S", 0.2)


@pytest.mark.parametrize("status", [200, 302, 403, 404, 410, 412, 422, 502])
@pytest.mark.parametrize("call", CALLS)
def test_a_proxys_page_is_tried_again_whatever_its_status(
    site: FakeSite, start_worker: Start, at_once: None, call: str, status: int
) -> None:
    site.fault_once(*CALLS[call], "page", status)
    request = site.file("r1", b"succeed" + b" " * 1000)
    worker = start_worker()
    wait_for(lambda: request.result)
    assert (request.attempt, request.completions, request.failure) == (1, 1, None)
    assert worker.error is None


@pytest.mark.parametrize(
    ("call", "code"), [("artifact", "digest_mismatch"), ("completion", "artifact_missing")]
)
def test_a_mask_that_did_not_arrive_whole_is_sent_again(
    site: FakeSite, start_worker: Start, at_once: None, call: str, code: str
) -> None:
    words = {"success": False, "code": code, "error": "Send it again."}
    site.fault_once(*CALLS[call], "status", 422, {}, words)
    request = site.file("r1", b"succeed")
    worker = start_worker()
    wait_for(lambda: request.result)
    assert (request.attempt, request.completions, request.failure) == (1, 1, None)
    assert worker.error is None


@pytest.mark.parametrize("answer", [{"success": True}, {"success": True, "outcome": "welcome"}])
def test_a_mask_is_deleted_only_on_the_sites_own_words(
    site: FakeSite, worker_settings: Settings, answer: dict[str, object]
) -> None:
    site.fault_once("POST", "complete-request", "status", 200, {}, answer)
    queue = HttpQueue(worker_settings.server, INFO)
    with pytest.raises(errors.ServerUnavailable, match="it is kept"):
        queue.complete("r1", "l1", RESULT, {})


@pytest.mark.parametrize("call", ["check", "claim", "heartbeat", "release", "fail"])
def test_an_answer_that_trickles_ends_although_no_read_times_out(
    site: FakeSite, worker_settings: Settings, call: str
) -> None:
    impatient = dataclasses.replace(
        worker_settings.server, read_timeout_s=0.6, connect_timeout_s=0.6
    )
    queue = HttpQueue(impatient, INFO)
    for method in ("GET", "POST", "PUT"):
        site.fault_always(method, "", "trickle")
    calls: dict[str, Callable[[], object]] = {
        "check": queue.check,
        "claim": lambda: queue.claim(str(uuid.uuid4()), wait_s=0),
        "heartbeat": lambda: queue.heartbeat("r1", "l1", stage="loading", progress=0),
        "release": lambda: queue.release("r1", "l1"),
        "fail": lambda: queue.fail("r1", "l1", code="c", message="m", is_retryable=True),
    }
    started = time.monotonic()
    with pytest.raises(errors.ServerUnavailable, match="took too long"):
        calls[call]()
    # The site would go on for a minute.
    assert time.monotonic() - started < 30


def test_a_site_that_trickles_is_met_with_patience(
    site: FakeSite, worker_settings: Settings, at_once: None
) -> None:
    impatient = dataclasses.replace(
        worker_settings.server, read_timeout_s=0.6, connect_timeout_s=0.6, wait_s=0.5
    )
    settings = dataclasses.replace(worker_settings, server=impatient)
    for call in ("claim", "artifact"):
        site.fault_once(*CALLS[call], "trickle")
    request = site.file("r1", b"succeed")
    worker = RunningWorker(settings)
    try:
        wait_for(lambda: request.result)
    finally:
        worker.end(times=2)
    assert (request.attempt, request.completions) == (1, 1)


def test_masks_finished_while_the_site_is_away_for_two_hours_are_all_delivered(
    worker_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = tmp_path / "cases.log"
    monkeypatch.setenv("FAKE_CHILD_LOG", str(cases))
    clock = [0.0]
    site = FakeSite()
    with running(site) as first:
        port = int(first.url.rsplit(":", 1)[1])
        requests = [first.file(f"r{n}", b"succeed") for n in range(3)]
        settings = with_url(worker_settings, first.url)
        fault = first.fault_always("POST", "complete-request", "status", 503)
        worker = RunningWorker(settings)
        jobs = settings.worker.work_dir / "jobs"
        wait_for(lambda: len(list(jobs.glob("*/result.json"))) == 3)
        worker.end(times=2)
    outbox = Outbox(settings.worker.work_dir)
    outbox.open()
    courier = Courier(outbox, HttpQueue(settings.server, INFO), now=lambda: clock[0])
    for entry in outbox.entries():
        if entry.end() is not None:
            courier.take(entry)
    while clock[0] < 2 * 3600:
        courier.deliver_due()
        clock[0] += 10
    assert courier.waiting == 3
    assert not any(request.result for request in requests)
    site.faults.remove(fault)
    with running(site, port):
        # The longest pause between two tries.
        clock[0] += 300
        courier.deliver_due()
    assert courier.waiting == 0
    assert [request.completions for request in requests] == [1, 1, 1]
    assert sorted(cases.read_text().splitlines()) == [f"r{n} succeed" for n in range(3)]


def with_url(settings: Settings, url: str) -> Settings:
    return dataclasses.replace(settings, server=dataclasses.replace(settings.server, url=url))


def test_a_site_that_comes_back_is_found_again(worker_settings: Settings) -> None:
    site = FakeSite()
    with running(site) as first:
        port = int(first.url.rsplit(":", 1)[1])
        worker = RunningWorker(with_url(worker_settings, first.url))
        wait_for(lambda: any("claim" in path for path in site.paths("POST")))
    try:
        threading.Event().wait(0.5)
        request = site.file("r1", b"succeed")
        with running(site, port):
            wait_for(lambda: request.result)
    finally:
        worker.end(times=2)
    assert worker.error is None


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_revoked_while_a_case_runs_keeps_the_mask_for_the_next_start(
    site: FakeSite, start_worker: Start, worker_settings: Settings, status: int
) -> None:
    let_go = threading.Event()
    hold = site.fault_always("GET", "instances", "hold", let_go)
    request = site.file("r1", b"succeed")
    worker = start_worker()
    wait_for(lambda: any("instances" in path for path in site.paths("GET")))
    revoked = site.fault_always("POST", "", "status", status)
    also = site.fault_always("PUT", "", "status", status)
    let_go.set()
    site.faults.remove(hold)
    worker.join()
    assert isinstance(worker.error, errors.Unauthorized), "it ends with 77 and says so"
    kept = list((worker_settings.worker.work_dir / "refused").glob("*/outputs/mask.dcm"))
    assert len(kept) == 1
    for fault in (revoked, also):
        site.faults.remove(fault)
    start_worker()
    wait_for(lambda: request.result)
    assert (request.attempt, request.completions) == (1, 1)

"""Waiting calls against a real server process: who waits, who is woken, what it costs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest

from django_queue_app.asgi_handler import THREADS
from tests.support.http_worker import HttpWorker
from tests.support.live_site import LiveSite, live_environment, start_live, stop_live


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def user(live: LiveSite) -> Iterator[httpx.Client]:
    with live.client() as client:
        yield client
        for one in client.get("/requests/?limit=200").json()["requests"]:
            if one["status"] in {"pending", "processing"}:
                client.post(f"/requests/{one['request_id']}/cancel/")


@pytest.fixture
def worker(live: LiveSite) -> Iterator[HttpWorker]:
    with live.client("lab") as client:
        yield HttpWorker(client)


def file(user: httpx.Client, series: str, **body: Any) -> str:
    answer = user.post(f"/series/{series}/request-local/", json={"force": True, **body})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["request_id"])


def events_of(user: httpx.Client, request_id: str, **headers: str) -> list[dict[str, Any]]:
    """Follow a request to its end."""
    path = f"/requests/{request_id}/events/"
    with user.stream("GET", path, headers=headers) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert "x-hold" not in answer.headers
        blocks = answer.read().decode().split("\n\n")
    fields = [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]
    told = [each for each in fields if each.get("event") == "status"]
    return [{"id": each["id"], **json.loads(each["data"])} for each in told]


def test_a_request_is_followed_from_filing_to_its_end(
    live: LiveSite, user: httpx.Client, worker: HttpWorker, threads: ThreadPoolExecutor
) -> None:
    filed = file(user, live.series["t1"])
    followed = threads.submit(events_of, user, filed)
    time.sleep(0.5)
    job = worker.claim().json()
    lease = {"If-Match": f'"{job["lease"]["id"]}"'}
    beat = {"stage": "inferring", "progress": 0.25}
    time.sleep(0.5)
    worker.client.post(f"/requests/{filed}/heartbeat/", json=beat, headers=lease)
    time.sleep(0.5)
    worker.serve(job)
    told = followed.result(10)
    seen = [(one["status"], one["stage"]) for one in told]
    assert seen[0] == ("pending", None)
    assert seen[1] == ("processing", "downloading")
    assert ("processing", "inferring") in seen
    assert seen[-1] == ("completed", None)
    assert told[-1]["result"]["tumor_volume_voxels"] == 12
    missed = events_of(user, filed, **{"Last-Event-ID": told[0]["id"]})
    assert [one["status"] for one in missed] == ["processing", "completed"]
    assert missed[-1]["id"] == told[-1]["id"]
    assert events_of(user, filed, **{"Last-Event-ID": told[-1]["id"]}) == []


def test_a_page_that_waits_gets_its_result_from_a_worker_on_another_connection(
    live: LiveSite, user: httpx.Client, worker: HttpWorker, threads: ThreadPoolExecutor
) -> None:
    series = live.series["t1"]
    body = {"sequence_series_ids": [live.series["flair"], series], "force": True}
    page: Future[httpx.Response] = threads.submit(
        user.post, f"/series/{series}/segment/", json=body
    )
    job = worker.claim(wait_s=10).json()
    files, found = worker.segment(job)
    for name, data in files.items():
        assert worker.upload(job, name, data).status_code == 201
    assert worker.complete(job, files, found).json()["outcome"] == "accepted"
    answer = page.result(10)
    assert answer.status_code == 200, answer.text
    result = answer.json()
    assert result["success"] is True
    assert result["request_id"] == job["request_id"]
    assert result["series_id"] == series
    assert result["tumor_volume_voxels"] == 12
    assert result["saved_to_pacs"] is result["saved_to_orthanc"] is True
    assert result["processed_by"] == "pc-1"
    assert "x-hold" not in answer.headers
    assert worker.upload(job, "mask.dcm", files["mask.dcm"]).status_code == 200
    assert worker.complete(job, files, found).json()["outcome"] == "replay"
    other = worker.complete(job, files, {**found, "tumor_volume_voxels": 99})
    assert other.json()["outcome"] == "superseded"
    assert worker.upload(job, "mask.dcm", b"other").status_code == 410
    status = user.get(f"/status/{job['request_id']}/").json()
    assert status["result"]["tumor_volume_voxels"] == 12


def test_what_is_delivered_can_be_downloaded_and_seen_slice_by_slice(
    live: LiveSite, user: httpx.Client, worker: HttpWorker
) -> None:
    request_id = file(user, live.series["t2"])
    job = worker.claim(wait_s=5).json()
    worker.serve(job)
    status = user.get(f"/status/{request_id}/").json()
    assert sorted(one["name"] for one in status["artifacts"]) == [
        "mask.dcm",
        "mask.nii.gz",
        "preview.png",
        "report.html",
        "report.json",
    ]
    kinds = {}
    for one in status["artifacts"]:
        answer = httpx.get(live.url + one["url"], headers=user.headers, trust_env=False)
        assert answer.status_code == 200
        assert request_id in answer.headers["content-disposition"]
        assert answer.headers["cache-control"] == "no-store"
        known = {**user.headers, "If-None-Match": answer.headers["etag"]}
        again = httpx.get(live.url + one["url"], headers=known, trust_env=False)
        assert (again.status_code, again.content) == (304, b"")
        kinds[one["name"]] = answer.headers["content-type"]
        if one["name"] == "report.html":
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("sandbox; default-src 'none'; ")
            assert "script" not in policy
    assert kinds["mask.dcm"] == "application/dicom"
    seg = status["result"]["seg_instance_id"]
    frames = user.get(f"/instances/{seg}/frames/").json()
    assert frames["num_frames"] == 3
    assert [one["index"] for one in frames["frames"]] == [0, 1, 2]
    assert user.get(f"/instances/{seg}/frames/?segment=1").json()["num_frames"] == 3


def test_a_page_that_waits_too_long_gets_504_and_the_request_goes_on(
    live: LiveSite, user: httpx.Client
) -> None:
    started = time.monotonic()
    answer = user.post(f"/series/{live.series['t1']}/segment/", json={"force": True})
    assert 2.5 < time.monotonic() - started < 8
    assert (answer.status_code, answer.json()["code"]) == (504, "not_done_in_time")
    assert "x-hold" not in answer.headers
    assert user.get(f"/status/{answer.json()['request_id']}/").json()["status"] == "pending"


def test_a_page_that_named_its_patience_gets_202(live: LiveSite, user: httpx.Client) -> None:
    started = time.monotonic()
    answer = user.post(
        f"/series/{live.series['t1']}/segment/", json={"force": True}, headers={"Prefer": "wait=1"}
    )
    assert 0.9 < time.monotonic() - started < 5
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "wait=1"
    assert answer.headers["location"] == answer.json()["status_url"]


def test_a_second_page_that_asks_for_the_same_gets_the_same_result(
    live: LiveSite, user: httpx.Client, worker: HttpWorker, threads: ThreadPoolExecutor
) -> None:
    path = f"/series/{live.series['t1c']}/segment/"
    pages = [threads.submit(user.post, path, json={}) for _ in range(3)]
    worker.serve(worker.claim(wait_s=10).json())
    results = [page.result(10).json() for page in pages]
    assert len({one["request_id"] for one in results}) == 1
    assert sorted(one["deduplicated"] for one in results) == [False, True, True]


def test_a_page_is_told_at_once_when_it_fails_or_is_cancelled(
    live: LiveSite, user: httpx.Client, worker: HttpWorker, threads: ThreadPoolExecutor
) -> None:
    path = f"/series/{live.series['t1']}/segment/"
    page = threads.submit(user.post, path, json={"force": True})
    worker.fail(worker.claim(wait_s=10).json(), code="missing_slices")
    answer = page.result(5)
    assert (answer.status_code, answer.json()["code"]) == (502, "segmentation_failed")
    assert answer.json()["failure"]["code"] == "missing_slices"
    page = threads.submit(user.post, path, json={"force": True})
    job = worker.claim(wait_s=10).json()
    user.post(f"/requests/{job['request_id']}/cancel/")
    answer = page.result(5)
    assert (answer.status_code, answer.json()["code"]) == (409, "cancelled")


def test_a_waiting_worker_is_woken_in_milliseconds(
    live: LiveSite, user: httpx.Client, worker: HttpWorker, threads: ThreadPoolExecutor
) -> None:
    latencies = []
    for _ in range(5):
        claim = threads.submit(worker.claim, wait_s=20)
        time.sleep(0.4)
        started = time.monotonic()
        filed = file(user, live.series["t1"])
        answer = claim.result(10)
        latencies.append(time.monotonic() - started)
        assert answer.json()["request_id"] == filed
    # Filing included. A quarter of a second would mean that only the watcher found it.
    assert min(latencies) < 0.25


def test_an_empty_poll_ends_when_the_worker_said(worker: HttpWorker) -> None:
    started = time.monotonic()
    answer = worker.claim(wait_s=1)
    assert 0.9 < time.monotonic() - started < 5
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["preference-applied"] == "wait=1"
    assert int(answer.headers["retry-after"]) >= 1


def test_a_worker_waits_only_for_its_own_lane(
    live: LiveSite, user: httpx.Client, worker: HttpWorker
) -> None:
    user.post(
        f"/series/{live.series['t1']}/segment/?use_local=false",
        json={},
        headers={"Prefer": "respond-async"},
    )
    assert worker.claim(wait_s=1).status_code == 204
    with live.client("cloud") as client:
        assert HttpWorker(client, name="cloud-1").claim().status_code == 200


def test_a_request_filed_by_another_process_is_found_by_the_watcher(
    live: LiveSite, worker: HttpWorker, user: httpx.Client, threads: ThreadPoolExecutor
) -> None:
    claim = threads.submit(worker.claim, wait_s=20)
    time.sleep(0.3)
    filing = (
        "import django; django.setup(); from django_queue_app import services;"
        f"services.file_request(main_series_id={live.series['t1']!r}, series_ids=[], lane='lab',"
        "requested_by='another process', is_forced=True)"
    )
    environment = live_environment(live.data_dir)
    subprocess.run([sys.executable, "-c", filing], env=environment, check=True)
    filed_at = time.monotonic()
    answer = claim.result(10)
    assert answer.status_code == 200
    assert time.monotonic() - filed_at < 3


def test_three_hundred_waiters_cost_no_thread_and_no_connection_each(
    live: LiveSite,
) -> None:
    server = psutil.Process(live.process.pid)

    def connections() -> int:
        return sum("db.sqlite3" in file.path for file in server.open_files())

    async def wait_together(count: int) -> tuple[int, int, float]:
        limits = httpx.Limits(max_connections=count)
        async with httpx.AsyncClient(
            base_url=live.api,
            headers=live.headers("lab"),
            limits=limits,
            timeout=60,
            trust_env=False,
        ) as client:
            tasks = [
                asyncio.create_task(
                    client.post(
                        "/pending-requests/claim/",
                        json={"worker": {"name": f"pc-{index % 7}"}},
                        headers={"Idempotency-Key": str(uuid4()), "Prefer": "wait=25"},
                    )
                )
                for index in range(count)
            ]
            await asyncio.sleep(1)
            await wait_until_taken_in(server)
            before = sum(server.cpu_times()[:2])
            await asyncio.sleep(2)
            seen = server.num_threads(), connections(), sum(server.cpu_times()[:2]) - before
            assert not any(task.done() for task in tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return seen

    # What a call passes through on its way to waiting stays, and is as many for any number of them.
    threads, connections_of_all, cpu_s = asyncio.run(wait_together(300))
    assert threads <= THREADS + 10
    # SQLite in WAL mode keeps three files open per connection: the calls' threads, the watcher.
    assert connections_of_all <= 3 * (THREADS + 2)
    assert cpu_s < 1


async def wait_until_taken_in(server: psutil.Process) -> None:
    """Wait until Django has answered every call: only then is a caller merely waiting."""
    for _ in range(80):
        before = sum(server.cpu_times()[:2])
        await asyncio.sleep(0.25)
        if sum(server.cpu_times()[:2]) - before < 0.1:
            return


def test_a_worker_that_hangs_up_does_not_get_the_next_request(
    live: LiveSite, user: httpx.Client, worker: HttpWorker
) -> None:
    with live.client("lab") as gone, pytest.raises(httpx.ReadTimeout):
        gone.post(
            "/pending-requests/claim/",
            json={"worker": {"name": "gone"}},
            headers={"Idempotency-Key": str(uuid4()), "Prefer": "wait=20"},
            timeout=0.7,
        )
    time.sleep(0.3)
    filed = file(user, live.series["t1"])
    time.sleep(0.5)
    assert user.get(f"/status/{filed}/").json()["status"] == "pending"
    assert worker.claim().json()["request_id"] == filed


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_a_server_that_is_told_to_stop_ends_the_waits_first(tmp_path: Path) -> None:
    short_lived = start_live(tmp_path, SEGMENTATION_WAIT_SECONDS="300")
    answers: list[httpx.Response] = []

    def call(who: str, path: str, body: Any, **headers: str) -> None:
        with short_lived.client(who) as client:
            answers.append(client.post(path, json=body, headers=headers))

    key = {"Idempotency-Key": str(uuid4()), "Prefer": "wait=25"}
    series = short_lived.series["t1"]
    # The claim first, in the cloud lane: else it takes what the page files.
    claim = ("cloud", "/pending-requests/claim/", {"worker": {"name": "x"}})
    calls = [
        threading.Thread(target=call, args=claim, kwargs=key),
        threading.Thread(target=call, args=("user", f"/series/{series}/segment/", {})),
    ]
    for one in calls:
        one.start()
    time.sleep(1.5)
    started = time.monotonic()
    short_lived.process.send_signal(signal.SIGTERM)
    try:
        short_lived.process.wait(10)
        for one in calls:
            one.join(5)
    finally:
        stop_live(short_lived)
    assert time.monotonic() - started < 8
    assert sorted(answer.status_code for answer in answers) == [204, 504]

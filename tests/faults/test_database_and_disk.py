"""Rows of the fault table: the database or the disk is not there, or the clock is wrong."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.conftest import DATABASES, FaultySite, beat, release, run_site
from tests.support.http_worker import HttpWorker

LEASE_S = 90
DISK_BYTES = 24 << 20


def require_retry_later(answer: httpx.Response, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, code), answer.text
    assert int(answer.headers["Retry-After"]) >= 1


# --- the database
def test_a_database_that_is_away_is_503_and_leaves_no_half_transition(site: FaultySite) -> None:
    worker = site.worker()
    site.job(site.worker("seen"), "flair")  # its name is known and its token's use is noted
    job = site.job(worker)
    waiting = site.file("t2")
    files, result = worker.segment(job)
    for name, data in files.items():
        worker.upload(job, name, data).raise_for_status()
    before = site.status(job["request_id"])
    user = site.client()
    with site.database_away():
        refused = [
            user.post(f"/series/{site.live.series['t1c']}/request-local/", json={"force": True}),
            user.post(f"/requests/{waiting}/cancel/"),
            beat(worker, job, stage="uploading", progress=0.9),
            worker.upload(job, "preview.png", files["preview.png"] + b"\0"),
            worker.complete(job, files, result),
            worker.fail(job, code="out_of_memory"),
            release(worker, job),
            worker.claim(),
        ]
        for answer in refused:
            require_retry_later(answer, "database_unavailable")
    assert site.status(job["request_id"]) == before
    assert site.status(waiting)["status"] == "pending"
    assert worker.complete(job, files, result).json()["outcome"] == "accepted"
    assert worker.claim().json()["request_id"] == waiting


def test_a_database_that_comes_back_while_a_worker_waits_is_not_noticed_by_it(
    site: FaultySite,
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    worker = site.worker()
    with ThreadPoolExecutor(1) as threads:
        poll = threads.submit(worker.claim, wait_s=20)
        with site.database_away():
            pass
        request_id = site.file()
        answer = poll.result()
    # Granted in the same poll, or, if the poll itself met the fault, in the next one.
    job = (answer if answer.status_code == 200 else worker.claim()).json()
    assert job["request_id"] == request_id


# --- the clock
@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_stepped_by_an_hour_loses_and_doubles_nothing(site: FaultySite, hours: int) -> None:
    living, lost, other = site.worker("living"), site.worker("lost"), site.worker("other")
    running, abandoned = site.job(living), site.job(lost, "t2")
    waiting = site.file("flair")
    files, result = living.segment(running)
    site.step_clock(3600 * hours)
    assert beat(living, running, stage="inferring", progress=0.5).status_code == (
        412 if hours > 0 else 200  # the hour ahead is beyond its deadline
    )
    taken = [
        answer.json() for answer in (other.claim(), other.claim()) if answer.status_code == 200
    ]
    site.step_clock(LEASE_S + 1)
    while (answer := other.claim()).status_code == 200:
        taken.append(answer.json())
    assert {job["request_id"] for job in taken} >= {waiting, abandoned["request_id"]}
    for name, data in files.items():
        living.upload(running, name, data).raise_for_status()
    assert living.complete(running, files, result).json()["outcome"] == "accepted"
    for job in taken:
        if beat(other, job).status_code == 200:  # 410: the living worker was first
            assert other.serve(job).json()["outcome"] == "accepted"
    for request_id in (running["request_id"], abandoned["request_id"], waiting):
        assert site.status(request_id)["status"] == "completed"
        ends = [state for state, _ in site.history(request_id) if state == "completed"]
        assert ends == ["completed"]
    site.step_clock(-3600 * hours)


# --- the disk
@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a file system with little room."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small file system can't be mounted here (needs root)")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(params=DATABASES)
def small_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FaultySite]:
    disk = tmp_path / "disk"
    with small_disk(disk), run_site(disk / "run", request.param, request) as site:
        yield site


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Leave no byte free."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 4096, 1):
            while True:
                try:
                    if not file.write(bytes(size)):
                        break
                except OSError:
                    break
    yield
    ballast.unlink()


@pytest.mark.mount
def test_a_full_disk_is_said_plainly_tears_nothing_and_is_over_when_there_is_room(
    small_site: FaultySite,
) -> None:
    site = small_site
    worker: HttpWorker = site.worker()
    job = site.job(worker)
    files, result = worker.segment(job)
    worker.upload(job, "mask.dcm", files["mask.dcm"]).raise_for_status()
    kept = site.live.data_dir / "artifacts" / job["request_id"]
    before = {path.name for path in kept.rglob("*") if path.is_file()}
    large = bytes(2 << 20)
    with full_disk(site.live.data_dir):
        answers = [worker.upload(job, "report.json", large) for _ in range(3)]
        answers.append(worker.complete(job, {"mask.dcm": files["mask.dcm"]}, result))
        told: list[dict[str, Any]] = [answer.json() for answer in answers]
        assert [answer.status_code for answer in answers] == [503] * 4, told
        assert {one["code"] for one in told} == {"storage_unavailable"}, told
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
        assert {path.name for path in kept.rglob("*") if path.is_file()} == before
        assert site.status(job["request_id"])["status"] == "processing"
    assert worker.serve(job).json()["outcome"] == "accepted"
    mask = site.client().get(f"/requests/{job['request_id']}/mask.dcm")
    assert mask.status_code == 200

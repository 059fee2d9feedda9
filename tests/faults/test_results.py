"""Rows of the fault table: a result that comes late, twice, torn, or to a server that dies."""

from __future__ import annotations

import base64
import hashlib
import socket
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from tests.faults.conftest import FaultySite, beat
from tests.support.existing_worker import ExistingWorker
from tests.support.http_worker import HttpWorker, lease_of

LEASE_S = 90
Made = tuple[dict[str, bytes], dict[str, Any]]


def deliver(worker: HttpWorker, job: dict[str, Any]) -> str:
    answer = worker.serve(job)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["outcome"])


def hand_in(worker: HttpWorker, job: dict[str, Any], made: Made) -> str:
    """Deliver what was made while the lease was alive."""
    for name, data in made[0].items():
        worker.upload(job, name, data).raise_for_status()
    answer = worker.complete(job, *made)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["outcome"])


# --- late and double
def test_a_late_result_that_nobody_else_took_is_accepted(site: FaultySite) -> None:
    worker = site.worker()
    job = site.job(worker)
    made = worker.segment(job)
    site.step_clock(7200)
    assert hand_in(worker, job, made) == "accepted"
    assert site.status(job["request_id"])["status"] == "completed"


def test_a_late_result_is_accepted_and_the_live_holder_gets_410(site: FaultySite) -> None:
    late, living = site.worker("late"), site.worker("living")
    job = site.job(late)
    made = late.segment(job)
    site.step_clock(LEASE_S + 1)
    successor = living.claim().json()
    assert successor["request_id"] == job["request_id"]
    assert hand_in(late, job, made) == "accepted"
    told = beat(living, successor)
    assert (told.status_code, told.json()["code"]) == (410, "finished")
    assert site.status(job["request_id"])["processed_by"] == "late"


def test_a_late_result_after_the_final_failure_is_accepted(site: FaultySite) -> None:
    worker = site.worker()
    jobs = [site.job(worker)]
    made = worker.segment(jobs[0])
    for _ in range(2):
        site.step_clock(LEASE_S + 1)
        jobs.append(worker.claim().json())
    site.step_clock(LEASE_S + 1)
    assert worker.claim().status_code == 204
    request_id = jobs[0]["request_id"]
    assert site.status(request_id)["status"] == "failed"
    assert hand_in(worker, jobs[0], made) == "accepted"
    ended = site.status(request_id)
    assert (ended["status"], ended["failure"]) == ("completed", None)


def test_of_two_results_the_first_wins_and_never_changes(site: FaultySite) -> None:
    first, second = site.worker("first"), site.worker("second")
    job = site.job(first)
    early = first.segment(job)
    site.step_clock(LEASE_S + 1)
    successor = second.claim().json()
    made = second.segment(successor)
    for name, data in made[0].items():
        second.upload(successor, name, data).raise_for_status()
    assert hand_in(first, job, early) == "accepted"
    before = site.status(job["request_id"])
    mask = site.client().get(f"/requests/{job['request_id']}/mask.dcm").content
    assert second.complete(successor, *made).json()["outcome"] == "superseded"
    assert site.status(job["request_id"]) == before
    assert site.client().get(f"/requests/{job['request_id']}/mask.dcm").content == mask


# --- the server dies
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_server_killed_around_a_commit_loses_and_doubles_nothing(
    site: FaultySite, moment: str
) -> None:
    """Filing, claim and completion are each cut off by SIGKILL and simply sent again."""
    body = {"model": f"model-{uuid4().hex[:8]}"}
    filing = f"/series/{site.live.series['t1']}/request-local/"
    site.die(moment, "pending")
    with pytest.raises(httpx.TransportError):
        site.client().post(filing, json=body)
    site.revive()
    filed = site.client().post(filing, json=body).json()
    assert filed["deduplicated"] is (moment == "after")

    worker, key = site.worker(), str(uuid4())
    worker.about["models"] = [body["model"]]
    site.die(moment, "processing")
    with pytest.raises(httpx.TransportError):
        worker.claim(key=key)
    site.revive()
    job = worker.claim(key=key).json()
    assert (job["request_id"], job["attempt"]) == (filed["request_id"], 1)

    files, result = worker.segment(job)
    for name, data in files.items():
        worker.upload(job, name, data).raise_for_status()
    site.die(moment, "completed")
    with pytest.raises(httpx.TransportError):
        worker.complete(job, files, result)
    site.revive()
    expected = "processing" if moment == "before" else "completed"
    assert site.status(job["request_id"])["status"] == expected
    again = worker.complete(job, files, result).json()["outcome"]
    assert again == ("accepted" if moment == "before" else "replay")
    assert worker.complete(job, files, result).json()["outcome"] == "replay"
    states = [state for state, _ in site.history(job["request_id"])]
    assert states == ["pending", "processing", "completed"]
    assert site.status(job["request_id"])["result"]["saved_to_pacs"] is True


def test_a_server_killed_while_it_stores_files_leaves_no_file_that_nobody_knows(
    site: FaultySite,
) -> None:
    worker = site.worker()
    job = site.job(worker)
    files, result = worker.segment(job)
    for name, data in files.items():
        worker.upload(job, name, data).raise_for_status()
    site.die("before", "completed")
    with pytest.raises(httpx.TransportError):
        worker.complete(job, files, result)
    site.revive()
    assert worker.complete(job, files, result).json()["outcome"] == "accepted"
    folder = site.live.data_dir / "artifacts" / job["request_id"] / job["lease"]["id"] / "final"
    assert len(list(folder.iterdir())) == 2  # mask and report, once


# --- torn on the way
def test_a_truncated_upload_is_not_kept_and_the_whole_file_is_taken(site: FaultySite) -> None:
    worker = site.worker()
    job = site.job(worker)
    files, _ = worker.segment(job)
    data = files["mask.dcm"]
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    path = f"/requests/{job['request_id']}/artifacts/mask.dcm"
    headers = {
        "Host": "localhost",
        "Authorization": worker.client.headers["Authorization"],
        "Content-Length": str(len(data)),
        "Content-Digest": f"sha-256=:{digest}:",
        **lease_of(job),
    }
    lines = [f"PUT /api/mri/segmentation{path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    address = urlsplit(site.live.url)
    with socket.create_connection((str(address.hostname), int(address.port or 80))) as cut:
        cut.sendall("\r\n".join([*lines, "", ""]).encode() + data[: len(data) // 2])
    kept = site.live.data_dir / "artifacts" / job["request_id"]
    incomplete = worker.complete(job, {"mask.dcm": data}, {})
    assert incomplete.status_code == 422
    assert not [path for path in kept.rglob("*") if path.is_file()]
    assert worker.upload(job, "mask.dcm", data).status_code == 201
    assert deliver(worker, job) == "accepted"


def test_an_upload_with_a_wrong_digest_is_422_and_the_right_one_is_taken(site: FaultySite) -> None:
    worker = site.worker()
    job = site.job(worker)
    files, result = worker.segment(job)
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    refused = worker.client.put(
        f"/requests/{job['request_id']}/artifacts/mask.dcm",
        content=files["mask.dcm"],
        headers={**lease_of(job), "Content-Digest": f"sha-256=:{wrong}:"},
    )
    assert (refused.status_code, refused.json()["code"]) == (422, "digest_mismatch")
    missing = worker.complete(job, files, result)
    assert (missing.status_code, missing.json()["code"]) == (422, "artifact_missing")
    assert site.status(job["request_id"])["status"] == "processing"
    assert deliver(worker, job) == "accepted"


def test_another_content_under_the_same_lease_replaces_the_file_and_leaves_no_other(
    site: FaultySite,
) -> None:
    worker = site.worker()
    job = site.job(worker)
    files, _ = worker.segment(job)
    folder = site.live.data_dir / "artifacts" / job["request_id"] / job["lease"]["id"]
    assert worker.upload(job, "report.json", b'{"result": 1}').status_code == 201
    assert worker.upload(job, "report.json", files["report.json"]).status_code == 201
    assert worker.upload(job, "report.json", files["report.json"]).status_code == 200
    assert len([path for path in folder.iterdir() if path.is_file()]) == 1
    assert deliver(worker, job) == "accepted"


# --- an existing worker beside ours
def test_an_existing_worker_that_is_late_and_posts_a_failure_changes_no_result(
    site: FaultySite,
) -> None:
    ours = site.worker("ours")
    existing = ExistingWorker(
        site.live.url,
        ("cloud", site.live.secrets["cloud"]),
        lambda item: None,  # type: ignore[arg-type,return-value]
    )
    filed = site.client().post(
        f"/series/{site.live.series['t1']}/segment/?use_local=false",
        json={"force": True},
        headers={"Prefer": "respond-async"},
    )
    request_id = filed.json()["request_id"]
    assert [item["request_id"] for item in existing.pending()] == [request_id]
    assert existing.start(request_id) == 200
    site.step_clock(1801)
    modern = HttpWorker(site.client("cloud"), name="modern")
    job = modern.claim().json()
    assert job["request_id"] == request_id
    early = existing.finish(request_id, {"success": False, "error": "timeout"})
    assert early.status_code == 409
    assert deliver(modern, job) == "accepted"
    before = site.status(request_id)
    late = existing.finish(request_id, {"success": False, "error": "timeout"})
    assert (late.status_code, late.json()["outcome"]) == (200, "unchanged")
    assert site.status(request_id) == before
    assert ours.claim().status_code == 204

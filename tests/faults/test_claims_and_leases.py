"""Rows of the fault table: who gets a request, and what a lost lease may still do.

Real server processes on both databases; only the server's clock is moved by hand.
"""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from tests.faults.conftest import FaultySite, beat, release, wait_until
from tests.support.http_worker import HttpWorker

LEASE_S = 90
DEADLINE_S = 1800


def claim_and_hang_up(site: FaultySite, worker: HttpWorker, key: str, request_id: str) -> None:
    """Send a claim and cut the connection once it is granted, its answer unread."""
    request = worker.client.build_request(
        "POST",
        "/pending-requests/claim/",
        json={"worker": worker.about},
        headers={"Idempotency-Key": key, "Prefer": "wait=0", "Connection": "close"},
    )
    lines = [f"POST {request.url.raw_path.decode()} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    address = urlsplit(site.live.url)
    with socket.create_connection((str(address.hostname), int(address.port or 80))) as cut:
        cut.sendall("\r\n".join([*lines, "", ""]).encode() + request.content)
        wait_until(lambda: site.status(request_id)["status"] == "processing", "a granted claim")


def test_a_claim_whose_answer_was_lost_is_replayed_with_its_attempt_unchanged(
    site: FaultySite,
) -> None:
    request_id, other_id = site.file(), site.file("t2")
    worker, key = site.worker(), str(uuid4())
    claim_and_hang_up(site, worker, key, request_id)
    again = [worker.claim(key=key) for _ in range(2)]
    assert {answer.json()["request_id"] for answer in again} == {request_id}
    assert [answer.json()["attempt"] for answer in again] == [1, 1]
    assert site.status(other_id)["status"] == "pending"


def test_two_parallel_claims_with_one_key_are_one_attempt(site: FaultySite) -> None:
    filed = {site.file(name) for name in ("t1", "t2", "flair")}
    key = str(uuid4())
    workers = [site.worker() for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda worker: worker.claim(key=key), workers))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["request_id"] for answer in answers}) == 1
    states = sorted(site.status(one)["status"] for one in filed)
    assert states == ["pending", "pending", "processing"]
    assert {answer.json()["attempt"] for answer in answers} == {1}


def test_sixteen_workers_and_one_job_are_one_200(site: FaultySite) -> None:
    request_id = site.file()
    workers = [site.worker(f"pc-{number}") for number in range(16)]
    with ThreadPoolExecutor(16) as threads:
        codes = sorted(threads.map(lambda worker: worker.claim().status_code, workers))
    assert codes == [200] + [204] * 15
    assert site.attempts(request_id) == 1


def test_what_a_lost_worker_had_is_taken_within_a_lease_and_one_poll(site: FaultySite) -> None:
    job = site.job(site.worker("lost"))
    other = site.worker("other")
    site.step_clock(LEASE_S - 5)
    assert other.claim().status_code == 204
    with ThreadPoolExecutor(1) as threads:
        poll = threads.submit(other.claim, wait_s=20)  # it waits already when the lease runs out
        site.step_clock(6)
        taken = poll.result().json()
    assert (taken["request_id"], taken["attempt"]) == (job["request_id"], 2)


def test_nothing_that_a_zombie_says_changes_anything(site: FaultySite) -> None:
    zombie, living = site.worker("zombie"), site.worker("living")
    job = site.job(zombie)
    site.step_clock(LEASE_S + 1)
    successor = living.claim().json()
    assert beat(living, successor, stage="inferring", progress=0.5).status_code == 200
    before = site.status(job["request_id"])
    refused = [
        zombie.fail(job, code="out_of_memory"),
        release(zombie, job),
        beat(zombie, job, stage="uploading", progress=1.0),
        zombie.claim(key=job["lease"]["id"]),
    ]
    assert [answer.status_code for answer in refused] == [412] * 4
    assert site.status(job["request_id"]) == before
    assert living.serve(successor).json()["outcome"] == "accepted"


def test_a_hung_device_with_a_living_heartbeat_is_found_by_its_deadline(site: FaultySite) -> None:
    hung, other = site.worker("hung"), site.worker("other")
    job = site.job(hung)
    for _ in range(DEADLINE_S // 60 - 1):
        site.step_clock(60)
        assert beat(hung, job, stage="inferring", progress=0.1).status_code == 200
    assert other.claim().status_code == 204
    site.step_clock(61)
    late = beat(hung, job, stage="inferring", progress=0.1)
    assert (late.status_code, late.json()["code"]) == (412, "deadline_passed")
    assert other.claim().json()["request_id"] == job["request_id"]


def test_a_poison_job_fails_at_its_third_attempt_while_the_others_go_on(site: FaultySite) -> None:
    poison = site.file()
    worker = site.worker()
    done = []
    for number in range(1, 4):
        assert worker.claim().json()["attempt"] == number  # and the worker is killed by it
        done.append(site.file("t2"))
        healthy = worker.claim().json()
        assert healthy["request_id"] == done[-1]
        assert worker.serve(healthy).status_code == 200
        site.step_clock(LEASE_S + 1)
    assert worker.claim().status_code == 204
    ended = site.status(poison)
    assert (ended["status"], ended["failure"]["code"]) == ("failed", "lease_expired")
    assert {site.status(one)["status"] for one in done} == {"completed"}


def test_a_permanent_failure_ends_at_the_first_attempt_with_its_reason(site: FaultySite) -> None:
    worker = site.worker()
    job = site.job(worker)
    assert worker.fail(job, code="missing_slices", retryable=False).status_code == 200
    ended = site.status(job["request_id"])
    assert (ended["status"], ended["attempts"]) == ("failed", 1)
    assert ended["failure"] == {"code": "missing_slices", "message": "It could not be done."}
    site.step_clock(400)
    assert worker.claim().status_code == 204


def test_a_cancel_while_pending_leaves_nothing_to_claim(site: FaultySite) -> None:
    request_id = site.file()
    assert site.client().post(f"/requests/{request_id}/cancel/").status_code == 200
    assert site.worker().claim().status_code == 204


def test_a_cancel_while_running_is_told_to_the_worker_and_takes_no_result(site: FaultySite) -> None:
    worker = site.worker()
    job = site.job(worker)
    files, result = worker.segment(job)
    worker.upload(job, "mask.dcm", files["mask.dcm"]).raise_for_status()
    site.client().post(f"/requests/{job['request_id']}/cancel/").raise_for_status()
    refused = [
        beat(worker, job),
        worker.upload(job, "preview.png", files["preview.png"]),
        worker.complete(job, {"mask.dcm": files["mask.dcm"]}, result),
        worker.fail(job, code="out_of_memory"),
    ]
    assert [answer.status_code for answer in refused] == [410] * 4
    assert site.status(job["request_id"])["status"] == "cancelled"


def test_a_cancel_after_completion_is_refused_and_the_result_stays(site: FaultySite) -> None:
    worker = site.worker()
    job = site.job(worker)
    worker.serve(job).raise_for_status()
    before = site.status(job["request_id"])
    assert site.client().post(f"/requests/{job['request_id']}/cancel/").status_code == 409
    assert site.status(job["request_id"]) == before


def test_one_name_on_two_pcs_is_two_leases_that_do_not_touch_each_other(site: FaultySite) -> None:
    first, second = site.worker("same"), site.worker("same")
    jobs = [site.job(first), site.job(second, "t2")]
    assert beat(first, jobs[0], stage="inferring", progress=0.7).status_code == 200
    assert release(second, jobs[1]).status_code == 200
    assert site.status(jobs[0]["request_id"])["progress"] == 0.7
    again = second.claim().json()
    assert again["request_id"] == jobs[1]["request_id"]
    assert [w.serve(j).json()["outcome"] for w, j in ((first, jobs[0]), (second, again))] == [
        "accepted"
    ] * 2


def test_a_token_revoked_while_a_job_runs_stops_its_worker_and_frees_the_job(
    site: FaultySite,
) -> None:
    token = f"stolen-{uuid4().hex[:8]}"
    told = site.manage("segmentation_token", "create", token, "--lane", "lab", "--json")
    stolen = HttpWorker(site.client("lab"), name=token)
    stolen.client.headers["Authorization"] = f"Bearer {told['secret']}"
    job = site.job(stolen)
    files, result = stolen.segment(job)
    site.manage("segmentation_token", "revoke", token)
    refused = [
        beat(stolen, job),
        stolen.upload(job, "mask.dcm", files["mask.dcm"]),
        stolen.complete(job, files, result),
        stolen.claim(),
        stolen.client.get(f"/requests/{job['request_id']}/instances/x"),
    ]
    assert {answer.status_code for answer in refused} == {403}
    site.step_clock(LEASE_S + 1)
    other = site.worker("other")
    taken: dict[str, Any] = other.claim().json()
    assert taken["request_id"] == job["request_id"]
    assert other.serve(taken).json()["outcome"] == "accepted"

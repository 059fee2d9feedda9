"""The fault table's rows on the worker's side, with real processes that are really killed."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time

import psutil
import pytest

from tests.acceptance.worker.conftest import Workers, ended, is_polling, wait_for
from tests.integration.worker_daemon.fake_site import TOKEN, FakeSite

if sys.platform == "win32":
    pytest.skip("signals and limits are POSIX's here", allow_module_level=True)
import resource

MASKS = {"mask.dcm", "mask.nii.gz", "preview.png", "report.json"}


def reached(site: FakeSite, workers: Workers, stage: str) -> bool:
    if stage == "downloading":
        return any("instances" in path for path in site.paths("GET"))
    if stage == "uploading":
        return bool(site.paths("PUT"))
    paused = workers.cases.with_name("paused")
    return paused.exists() and paused.read_text() == stage


@pytest.mark.parametrize(
    ("stage", "attempts", "inferences"),
    [
        ("downloading", 2, 1),
        ("loading", 2, 2),
        ("inferring", 2, 2),
        ("writing", 2, 2),
        ("uploading", 1, 1),
    ],
)
def test_a_worker_killed_in_a_stage_delivers_one_result_after_its_restart(
    site: FakeSite, workers: Workers, stage: str, attempts: int, inferences: int
) -> None:
    site.requeues_retryable = True
    let_go = threading.Event()
    if stage == "downloading":
        site.fault_always("GET", "instances", "hold", let_go)
    if stage == "uploading":
        site.fault_always("PUT", "artifacts", "hold", let_go)
    is_childs = stage in ("loading", "inferring", "writing")
    request = site.file("r1", f"pause-{stage}".encode() if is_childs else b"succeed")
    process = workers.start()
    wait_for(lambda: reached(site, workers, stage))
    process.kill()
    process.wait()
    let_go.set()
    site.faults.clear()
    assert request.result is None
    workers.start()
    wait_for(lambda: request.result and not list(workers.jobs.glob("*/job.json")))
    assert (request.attempt, len(workers.cases_run())) == (attempts, inferences)
    assert request.completions == 1
    assert set(request.artifacts) == MASKS
    assert request.artifacts["mask.dcm"] == b"mask.dcm" * 5000, "not the torn one"


@pytest.mark.parametrize(
    ("step", "attempts", "inferences", "completions"),
    [
        ("before the job is written", 1, 1, 1),
        ("after the job is written", 2, 1, 1),
        ("before the result is renamed", 2, 2, 1),
        ("between rename and POST", 1, 1, 1),
        ("between the answer and the deletion", 1, 1, 2),
    ],
)
def test_a_worker_killed_between_two_steps_delivers_one_result_after_its_restart(
    site: FakeSite, workers: Workers, step: str, attempts: int, inferences: int, completions: int
) -> None:
    site.requeues_retryable = True
    request = site.file("r1", b"succeed")
    assert workers.start(KILL_AT=step).wait(60) == -signal.SIGKILL
    workers.start()
    wait_for(lambda: request.result and not list(workers.jobs.glob("*/job.json")))
    assert (request.attempt, len(workers.cases_run())) == (attempts, inferences)
    # The last one is told "replay": the result that is seen never changes.
    assert request.completions == completions


@pytest.mark.parametrize("off_s", [-86_400, 86_400])
def test_a_clock_that_is_a_day_wrong_changes_nothing(
    site: FakeSite, workers: Workers, off_s: int
) -> None:
    site.expires_in = 0.9
    request = site.file("r1", b"brief")
    process = workers.start(CLOCK_OFF_S=str(off_s))
    wait_for(lambda: request.result)
    assert (request.attempt, request.failure) == (1, None)
    assert len(request.beats) >= 2
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0


def test_the_child_of_a_cancelled_request_is_gone_within_5_s_of_the_heartbeat(
    site: FakeSite, workers: Workers
) -> None:
    site.expires_in = 0.9
    request = site.file("r1", b"pause-inferring")
    process = workers.start()
    wait_for(lambda: reached(site, workers, "inferring") and request.beats)
    children = psutil.Process(process.pid).children()
    beats = len(request.beats)
    request.status = "cancelled"
    wait_for(lambda: len(request.beats) > beats)
    assert psutil.wait_procs(children, timeout=5)[1] == []
    after = site.file("r2", b"succeed")
    wait_for(lambda: after.result)


def no_room(process_id: int) -> None:
    """Let the process write nothing any more, as on a full disk; the system says EFBIG."""
    resource.prlimit(process_id, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def room_again(process_id: int) -> None:
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(process_id, resource.RLIMIT_FSIZE, unlimited)


def test_a_disk_that_is_full_when_a_request_comes_gives_it_back_and_waits_for_room(
    site: FakeSite, workers: Workers
) -> None:
    process = workers.start()
    wait_for(lambda: is_polling(site))
    no_room(process.pid)
    request = site.file("r1", b"succeed")
    wait_for(lambda: request.status == "released")
    request.status = "pending"
    polls = len(site.paths("POST"))
    time.sleep(1)
    assert (request.status, len(site.paths("POST"))) == ("pending", polls), "it asks for nothing"
    assert not list(workers.jobs.glob("**/*.tmp")), "nothing torn"
    room_again(process.pid)
    wait_for(lambda: request.result)
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    assert code == 0
    sentences = [line for line in err.splitlines() if " disk_full " in line]
    assert any("is full (File too large): free some space there" in line for line in sentences)
    assert "can't be written (File too large)" in err, "the log itself"
    assert "disk_has_room" in err


def test_a_disk_that_is_full_when_the_mask_is_done_is_told_to_the_site(
    site: FakeSite, workers: Workers
) -> None:
    site.requeues_retryable = True
    let_go = threading.Event()
    hold = site.fault_always("GET", "instances", "hold", let_go)
    request = site.file("r1", b"told")
    process = workers.start()
    wait_for(lambda: reached(site, workers, "downloading"))
    let_go.set()
    site.faults.remove(hold)
    wait_for(workers.cases_run)
    no_room(process.pid)
    workers.cases.with_name("go").touch()
    wait_for(lambda: request.failures)
    assert request.failures == ["disk_full"]
    assert request.failure is not None
    assert "free some space" in request.failure["message"]
    assert not list(workers.jobs.glob("**/result.json*"))
    room_again(process.pid)
    wait_for(lambda: request.result)
    assert request.attempt == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_a_case_finish(site: FakeSite, workers: Workers, number: int) -> None:
    let_go = threading.Event()
    hold = site.fault_always("GET", "instances", "hold", let_go)
    request, other = site.file("r1", b"succeed"), site.file("r2", b"succeed")
    workers.drain_within(60)
    process = workers.start()
    wait_for(lambda: reached(site, workers, "downloading"))
    process.send_signal(number)
    let_go.set()
    site.faults.remove(hold)
    assert ended(process)[0] == 0
    assert request.result
    assert other.status == "pending", "nothing new is begun"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_case_that_takes_longer_than_the_time_to_end_is_given_back(
    site: FakeSite, workers: Workers, number: int
) -> None:
    request = site.file("r1", b"pause-inferring")
    workers.drain_within(0.5)
    process = workers.start()
    wait_for(lambda: reached(site, workers, "inferring"))
    children = psutil.Process(process.pid).children()
    process.send_signal(number)
    assert ended(process)[0] == 0
    assert (request.status, request.attempt) == ("released", 0)
    assert psutil.wait_procs(children, timeout=5)[1] == []


def test_ctrl_c_twice_ends_at_once(site: FakeSite, workers: Workers) -> None:
    request = site.file("r1", b"pause-inferring")
    workers.drain_within(3600)
    process = workers.start()
    wait_for(lambda: reached(site, workers, "inferring"))
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 0
    assert request.status == "released"


def test_the_token_is_in_no_log_and_in_no_process_list(site: FakeSite, workers: Workers) -> None:
    text = workers.config.read_text(encoding="utf-8")
    workers.config.write_text(text + "log: {level: debug, format: json}\n", encoding="utf-8")
    for name, content in {"r1": b"crash", "r2": b"error", "r3": b"pause-inferring"}.items():
        site.file(name, content)
    site.fault_once("POST", "heartbeat", "status", 401)
    process = workers.start()
    wait_for(lambda: reached(site, workers, "inferring"))
    started = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert len(started) == 2
    shown = " ".join(part for one in started for part in one.cmdline())
    childs = " ".join(started[1].environ().values())
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
    _, out, err = ended(process)
    log = (workers.folder / "var" / "worker" / "logs" / "worker.log").read_text(encoding="utf-8")
    assert "case_failed" in log
    for where in (shown, childs, out, err, log):
        assert TOKEN not in where


def test_a_file_that_a_power_cut_tore_is_put_aside_and_the_next_case_runs(
    site: FakeSite, workers: Workers
) -> None:
    torn = workers.jobs / "11111111-1111-4111-8111-111111111111"
    torn.mkdir(parents=True)
    (torn / "job.json.tmp").write_text('{"request_id": "r0", "man')
    broken = workers.jobs / "22222222-2222-4222-8222-222222222222"
    broken.mkdir()
    (broken / "result.json").write_text('{"request_id": "r0", "resu')
    request = site.file("r1", b"succeed")
    workers.start()
    wait_for(lambda: request.result)
    assert request.leases == {torn.name}, "its lease was never granted, so it is asked for again"
    refused = workers.jobs.parent / "refused" / broken.name
    assert re.search("damaged", (refused / "refused.json").read_text())

"""The whole worker, in this process, against a site and a child that can misbehave."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.integration.worker_daemon.conftest import RunningWorker, wait_for
from tests.integration.worker_daemon.fake_site import FakeSite
from worker.core import errors
from worker.settings import Settings

Start = Callable[..., RunningWorker]


def jobs_left(worker_settings: Settings) -> list[str]:
    """What lies in the outbox, without the lease of the poll that is open."""
    folders = (worker_settings.worker.work_dir / "jobs").iterdir()
    return [path.name for path in folders if (path / "job.json").exists()]


def test_a_request_goes_in_and_a_mask_comes_out(
    site: FakeSite, start_worker: Start, worker_settings: Settings
) -> None:
    request = site.file("r1", b"succeed", b"second image")
    start_worker()
    wait_for(lambda: request.result)
    assert set(request.artifacts) == {"mask.dcm", "mask.nii.gz", "preview.png", "report.json"}
    assert request.result is not None
    assert request.result["tumor_volume_voxels"] == 12
    assert set(request.result["timings"]) == {"downloading", "loading", "inferring", "writing"}
    wait_for(lambda: not jobs_left(worker_settings))


def test_one_warm_child_serves_one_case_after_another(
    site: FakeSite, start_worker: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    requests = [site.file(f"r{n}", b"chatter") for n in range(4)]
    start_worker()
    wait_for(lambda: all(request.result for request in requests))
    assert [record.message for record in caplog.records].count("child_started") == 1


@pytest.mark.parametrize(
    ("what", "code", "is_retryable"),
    [
        ("crash", "engine_crashed", True),
        ("killed", "engine_crashed", True),
        ("exit", "engine_crashed", True),
        ("hang", "engine_hung", True),
        ("oom", "out_of_memory", True),
        ("error", "missing_slices", False),
    ],
)
def test_a_failed_case_is_reported_and_the_next_one_succeeds(
    site: FakeSite, start_worker: Start, what: str, code: str, is_retryable: bool
) -> None:
    bad, good = site.file("bad", what.encode()), site.file("good", b"succeed")
    start_worker()
    wait_for(lambda: bad.failure and good.result)
    assert bad.failure is not None
    assert bad.failure["code"] == code
    assert bad.failure["retryable"] is is_retryable


def test_a_crash_is_told_in_words(site: FakeSite, start_worker: Start) -> None:
    request = site.file("r1", b"crash")
    start_worker()
    wait_for(lambda: request.failure)
    assert request.failure is not None
    assert "segmentation fault" in request.failure["message"]


def test_a_hung_child_stops_the_heartbeat(site: FakeSite, start_worker: Start) -> None:
    site.expires_in = 1.5
    request = site.file("r1", b"hang")
    start_worker()
    wait_for(lambda: request.failure)
    beats = len(request.beats)
    # A beat each 0.5 s until the stall of 2 s.
    assert 2 <= beats <= 5


def test_the_deadline_ends_a_case_that_still_moves(site: FakeSite, start_worker: Start) -> None:
    site.deadline_in = 1.0
    request = site.file("r1", b"slow")
    start_worker()
    wait_for(lambda: request.failure)
    assert request.failure is not None
    assert request.failure["code"] == "engine_hung"


def test_a_cancelled_request_ends_its_case_and_leaves_nothing(
    site: FakeSite, start_worker: Start, worker_settings: Settings
) -> None:
    site.expires_in = 0.6
    request = site.file("r1", b"slow")
    start_worker()
    wait_for(lambda: request.beats)
    request.status = "cancelled"
    wait_for(lambda: not jobs_left(worker_settings))
    assert request.result is None
    assert request.failure is None
    after = site.file("r2", b"succeed")
    wait_for(lambda: after.result)


def test_a_lost_lease_ends_the_case(
    site: FakeSite, start_worker: Start, worker_settings: Settings
) -> None:
    site.expires_in = 0.6
    request = site.file("r1", b"slow")
    start_worker()
    wait_for(lambda: request.beats)
    request.lease = "another"
    wait_for(lambda: not jobs_left(worker_settings))
    assert request.failure is None


def test_a_finished_mask_waits_for_a_site_that_is_away(
    site: FakeSite, start_worker: Start, worker_settings: Settings
) -> None:
    request = site.file("r1", b"succeed")
    fault = site.fault_always("POST", "complete-request", "status", 503)
    worker = start_worker()
    wait_for(lambda: any((worker_settings.worker.work_dir / "jobs").glob("*/result.json")))
    wait_for(lambda: any("complete-request" in path for path in site.paths("POST")))
    worker.end()
    assert request.result is None
    site.faults.remove(fault)
    before = len([path for path in site.paths("GET") if "instances" in path])
    start_worker()
    wait_for(lambda: request.result)
    after = len([path for path in site.paths("GET") if "instances" in path])
    assert (request.attempt, before, after) == (1, 1, 1), "no second inference"
    wait_for(lambda: not jobs_left(worker_settings))


def test_waiting_masks_do_not_keep_new_requests_waiting(
    site: FakeSite, start_worker: Start
) -> None:
    site.file("r1", b"succeed")
    site.fault_always("POST", "complete-request/r1", "status", 503)
    second = site.file("r2", b"succeed")
    start_worker()
    wait_for(lambda: second.result)


@pytest.mark.parametrize("status", [401, 403, 422])
def test_a_refused_result_is_put_aside_with_its_reason(
    site: FakeSite, start_worker: Start, worker_settings: Settings, status: int
) -> None:
    site.file("r1", b"succeed")
    site.fault_always("POST", "complete-request/r1", "status", status)
    start_worker()
    refused = worker_settings.worker.work_dir / "refused"
    wait_for(lambda: list(refused.glob("*/refused.json")))
    assert list(refused.glob("*/outputs/mask.dcm"))
    second = site.file("r2", b"succeed")
    wait_for(lambda: second.result)


def test_a_result_refused_for_an_old_token_is_delivered_after_the_next_start(
    site: FakeSite, start_worker: Start, worker_settings: Settings
) -> None:
    request = site.file("r1", b"succeed")
    fault = site.fault_always("POST", "complete-request/r1", "status", 401)
    worker = start_worker()
    wait_for(lambda: list((worker_settings.worker.work_dir / "refused").glob("*/refused.json")))
    worker.end()
    site.faults.remove(fault)
    start_worker()
    wait_for(lambda: request.result)


def test_draining_gives_an_unfinished_request_back(
    site: FakeSite, start_worker: Start, worker_settings: Settings
) -> None:
    request = site.file("r1", b"slow")
    worker = start_worker()
    wait_for(lambda: request.status == "processing" and jobs_left(worker_settings))
    worker.end()
    assert request.status == "released"
    assert not jobs_left(worker_settings)
    assert worker.error is None


def test_draining_lets_a_short_case_finish(
    site: FakeSite, start_worker: Start, worker_settings: Settings
) -> None:
    request = site.file("r1", b"succeed")
    site.fault_once("GET", "instances", "status", 503)
    # Long enough for a machine that does much else; the test ends as soon as the case does.
    worker = start_worker(drain_s=60)
    wait_for(lambda: request.status == "processing")
    worker.end()
    assert request.result is not None


def test_an_idle_worker_ends_although_its_poll_is_held(site: FakeSite, start_worker: Start) -> None:
    worker = start_worker()
    wait_for(lambda: any("claim" in path for path in site.paths("POST")))
    worker.end()
    assert worker.error is None


def test_a_device_fault_ends_the_attempt_and_the_next_case_runs_in_a_fresh_child(
    site: FakeSite, start_worker: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bad, good = site.file("bad", b"broken"), site.file("good", b"succeed")
    start_worker()
    wait_for(lambda: good.result and bad.failure)
    assert bad.failure is not None
    assert (bad.failure["code"], bad.failure["retryable"]) == ("cuda_fault", True)
    assert [record.message for record in caplog.records].count("child_started") == 2


def test_a_second_device_fault_in_a_row_gives_the_request_back_and_asks_for_a_restart(
    site: FakeSite, start_worker: Start
) -> None:
    first, second = site.file("r1", b"broken"), site.file("r2", b"broken")
    worker = start_worker()
    worker.join()
    assert isinstance(worker.error, errors.EngineBroken)
    assert worker.error.exit_code == 70
    assert (first.status, second.status) == ("failed", "released")


def test_a_mask_in_between_shows_that_the_device_is_well(
    site: FakeSite, start_worker: Start
) -> None:
    contents = {"r1": b"broken", "r2": b"succeed", "r3": b"broken", "r4": b"succeed"}
    requests = [site.file(name, content) for name, content in contents.items()]
    worker = start_worker()
    wait_for(lambda: requests[3].result)
    assert worker.error is None
    assert [request.status for request in requests] == ["failed", "completed"] * 2


def test_a_request_that_breaks_the_device_each_time_counts_each_time(
    site: FakeSite, start_worker: Start
) -> None:
    site.requeues_retryable = True
    request = site.file("r1", b"broken")
    worker = start_worker()
    worker.join()
    assert isinstance(worker.error, errors.EngineBroken)
    assert (request.attempt, request.failures) == (2, ["cuda_fault"] * 2)


def test_a_child_that_does_not_start_gives_the_request_back(
    site: FakeSite, start_worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start_worker()
    wait_for(lambda: worker.program.runner.device)
    monkeypatch.setenv("FAKE_CHILD_START", "fail")
    worker.program.runner.kill()
    request = site.file("r1", b"succeed")
    worker.join()
    assert isinstance(worker.error, errors.EngineNotStarting)
    assert request.status == "released"


def test_a_site_that_goes_away_later_does_not_end_the_worker(
    site: FakeSite, start_worker: Start
) -> None:
    worker = start_worker()
    wait_for(lambda: any("claim" in path for path in site.paths("POST")))
    fault = site.fault_always("POST", "claim", "status", 502)
    calls = len(site.calls)
    wait_for(lambda: len(site.calls) > calls + 3)
    site.faults.remove(fault)
    request = site.file("r1", b"succeed")
    wait_for(lambda: request.result)
    assert worker.error is None


def test_a_claim_whose_answer_was_lost_is_replayed(site: FakeSite, start_worker: Start) -> None:
    request = site.file("r1", b"succeed")
    site.fault_once("POST", "claim", "swallow")
    start_worker()
    wait_for(lambda: request.result)
    assert request.attempt == 1


def test_revoked_credentials_end_the_worker(site: FakeSite, start_worker: Start) -> None:
    worker = start_worker()
    wait_for(lambda: any("claim" in path for path in site.paths("POST")))
    site.fault_always("POST", "claim", "status", 403)
    worker.join()
    assert isinstance(worker.error, errors.Unauthorized)
    assert worker.error.exit_code == 77


def test_a_child_that_can_not_start_is_an_engine_failure(
    site: FakeSite, start_worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CHILD_START", "fail")
    worker = start_worker()
    worker.join()
    assert isinstance(worker.error, errors.EngineBroken)
    assert "No module named torch" in worker.error.message


def test_the_childs_environment_has_no_secrets(
    site: FakeSite, start_worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.adapters import child

    monkeypatch.setenv("WORKER_TOKEN", "hunter2")
    monkeypatch.setenv("DJANGO_API_AUTH", "a:hunter2")
    assert "hunter2" not in json.dumps(child._environment())


def test_a_second_worker_in_the_same_folder_is_refused(site: FakeSite, start_worker: Start) -> None:
    start_worker()
    with pytest.raises(errors.SettingsError, match=r"in use by another worker \(process \d+\)"):
        start_worker()

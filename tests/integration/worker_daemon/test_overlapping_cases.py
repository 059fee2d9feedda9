"""Several cases in work at once: taken ahead, each on the device in its turn, each for itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.integration.worker_daemon.conftest import RunningWorker, wait_for
from tests.integration.worker_daemon.fake_site import FakeSite
from worker.core.errors import EngineNotStarting
from worker.settings import Settings

Start = Callable[..., RunningWorker]


@pytest.fixture
def times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "times.txt"
    monkeypatch.setenv("FAKE_CHILD_TIMES", str(path))
    return path


@pytest.fixture
def start(worker_settings: Settings) -> Iterator[Start]:
    """Start a worker with so many processes on each of its devices."""
    started: list[RunningWorker] = []

    def start(*, processes: int = 3, prefetch: int = 2, devices: int = 1) -> RunningWorker:
        inference = replace(
            worker_settings.inference,
            processes=processes,
            devices=tuple(f"cuda:{index}" for index in range(devices)),
            stall_s=60.0,
        )
        worker = replace(worker_settings.worker, prefetch=prefetch)
        started.append(RunningWorker(replace(worker_settings, inference=inference, worker=worker)))
        return started[-1]

    yield start
    for worker in started:
        worker.end(times=2)


def on_device(times: Path) -> list[tuple[float, float, str]]:
    """Give begin, end and request of each turn on a device, in order."""
    began: dict[str, float] = {}
    turns = []
    for line in times.read_text().splitlines():
        at, _, request, what = line.split()
        if what == "begins":
            began[request] = float(at)
        else:
            turns.append((began[request], float(at), request))
    return sorted(turns)


def learn(site: FakeSite) -> None:
    """Let a worker see how long its cases take: before that it takes none ahead."""
    first = site.file("first", b"turn")
    wait_for(lambda: first.result)


def test_cases_overlap_and_take_turns_on_the_device(
    site: FakeSite, start: Start, times: Path
) -> None:
    worker = start()
    learn(site)
    requests = [site.file(f"r{n}", b"turn") for n in range(6)]
    most = 0
    while not all(request.result for request in requests):
        most = max(most, sum(request.status == "processing" for request in requests))
        assert worker.error is None
        time.sleep(0.01)
    turns = on_device(times)
    # In the order in which they asked, which is that of the claims only as long as none overtakes
    # another while its images come.
    assert sorted(turn[2] for turn in turns) == ["first", *(f"r{n}" for n in range(6))]
    assert all(one[1] <= other[0] for one, other in pairwise(turns))
    assert 2 <= most <= 5  # on the device, ahead of it, and being delivered
    assert len({line.split()[1] for line in times.read_text().splitlines()}) > 1


def test_two_devices_work_at_the_same_time(site: FakeSite, start: Start, times: Path) -> None:
    start(processes=1, devices=2)
    learn(site)
    requests = [site.file(f"r{n}", b"turn") for n in range(6)]
    wait_for(lambda: all(request.result for request in requests))
    turns = on_device(times)
    assert any(other[0] < one[1] for one, other in pairwise(turns))


def test_a_crash_takes_its_own_case_only(site: FakeSite, start: Start) -> None:
    start()
    learn(site)
    poison = site.file("poison", b"turn-crash")
    others = [site.file(f"r{n}", b"turn") for n in range(4)]
    wait_for(lambda: all(request.result for request in others) and poison.failure)
    assert poison.failures == ["engine_crashed"]
    assert [request.attempt for request in others] == [1] * 4


def test_cancelling_one_case_leaves_the_other_alone(site: FakeSite, start: Start) -> None:
    site.expires_in = 0.6
    start(devices=2, processes=1)
    learn(site)
    one, other = site.file("one", b"slow"), site.file("other", b"slow")
    wait_for(lambda: one.beats and other.beats)
    one.status = "cancelled"
    wait_for(lambda: other.result)
    assert one.result is None
    assert other.attempt == 1


def test_a_lost_run_ends_and_the_next_run_of_the_same_request_goes_on(
    site: FakeSite, start: Start, times: Path
) -> None:
    site.expires_in = 0.6
    start()
    learn(site)
    request = site.file("again", b"turn long")
    wait_for(lambda: "again begins" in times.read_text())
    lost = request.lease
    with site.filed:
        request.lease, request.status = "", "pending"  # as if its lease had run out
        site.filed.notify_all()
    wait_for(lambda: request.result)
    # The first run had the device and was ended for good, the second one had its turn after it.
    assert request.attempt == 2
    assert request.lease != lost
    assert request.completions == 1
    assert times.read_text().count("again begins") == 2
    assert times.read_text().count("again ends") == 1


def test_waiting_for_the_device_is_no_stall(
    site: FakeSite, start: Start, worker_settings: Settings
) -> None:
    worker = start()
    worker.program.daemon._casework._stall_s = 1.5  # type: ignore[attr-defined]
    learn(site)
    long = site.file("long", b"turn long")
    wait_for(lambda: any(beat["stage"] == "inferring" for beat in long.beats))
    short = site.file("short", b"turn")
    wait_for(lambda: short.result)
    assert (long.failures, short.failures) == ([], [])
    assert (long.attempt, short.attempt) == (1, 1)


def test_without_prefetch_no_second_request_is_taken(site: FakeSite, start: Start) -> None:
    start(prefetch=0)
    requests = [site.file(f"r{n}", b"turn") for n in range(4)]
    while not all(request.result for request in requests):
        assert sum(request.status == "processing" for request in requests) <= 1
        time.sleep(0.005)


def test_a_worker_that_ends_gives_back_what_it_took_ahead(site: FakeSite, start: Start) -> None:
    worker = start(devices=2, processes=1)
    learn(site)
    requests = [site.file(f"r{n}", b"slow") for n in range(3)]
    wait_for(lambda: sum(bool(request.beats) for request in requests) >= 2)
    worker.end(times=2)
    assert {request.status for request in requests} <= {"released", "pending"}
    assert sum(request.status == "released" for request in requests) >= 2


def test_a_further_process_that_does_not_start_is_done_without(
    site: FakeSite, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    worker = start()
    learn(site)
    monkeypatch.setenv("FAKE_CHILD_START", "fail")
    requests = [site.file(f"r{n}", b"turn") for n in range(6)]
    wait_for(lambda: all(request.result for request in requests))
    assert worker.error is None
    assert {request.attempt for request in requests} == {1}
    assert "further_process_not_started" in [record.message for record in caplog.records]


def test_requests_are_asked_for_before_the_engine_is_up(
    site: FakeSite, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    monkeypatch.setenv("FAKE_CHILD_GATE", str(gate))
    request = site.file("r1", b"succeed")
    start(processes=1)
    wait_for(lambda: any("instances" in path for path in site.paths("GET")))
    assert request.result is None
    gate.touch()
    wait_for(lambda: request.result)
    assert request.attempt == 1


def test_an_engine_that_does_not_start_gives_the_request_back_and_is_tried_first_next_time(
    site: FakeSite, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    monkeypatch.setenv("FAKE_CHILD_GATE", str(gate))
    request = site.file("r1", b"succeed")
    worker = start(processes=1)
    wait_for(lambda: request.status == "processing")
    worker.program.runner.kill()
    worker.join()
    assert isinstance(worker.error, EngineNotStarting)
    assert request.status == "released"
    claims = len(site.paths("POST"))

    monkeypatch.setenv("FAKE_CHILD_START", "fail")
    again = start(processes=1)
    again.join()
    assert isinstance(again.error, EngineNotStarting)
    assert len(site.paths("POST")) == claims

    monkeypatch.delenv("FAKE_CHILD_START")
    gate.touch()
    other = site.file("r2", b"succeed")
    start(processes=1)
    wait_for(lambda: other.result)

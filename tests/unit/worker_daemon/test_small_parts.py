from __future__ import annotations

import importlib
import logging
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tenacity import Future, RetryCallState, Retrying

from worker import durable, signals
from worker.adapters.case_process import error_of
from worker.adapters.exit_words import ending_in_words
from worker.backoff import WaitForServer, full_jitter_s
from worker.core import errors
from worker.core.job import Case, Job
from worker.daemon import TRANSITIONS, State
from worker.lockfile import WorkFolderLock
from worker.log import EventFormatter
from worker.signals import Stop, handled


def most(low: float, high: float) -> float:
    assert low == 0
    return high


@pytest.mark.parametrize(
    ("failures", "pause_s"), [(1, 1), (2, 2), (5, 16), (7, 60), (1000, 60), (0, 1)]
)
def test_the_longest_pause_doubles_up_to_its_limit(failures: int, pause_s: float) -> None:
    assert full_jitter_s(failures, draw=most) == pause_s


def test_the_pause_is_drawn_from_the_whole_range() -> None:
    drawn = [full_jitter_s(4) for _ in range(200)]
    assert min(drawn) < 2
    assert max(drawn) > 6
    assert max(drawn) <= 8


@pytest.mark.parametrize(("asked_s", "pause_s"), [(None, 4), (2, 4), (30, 30)])
def test_the_sites_retry_after_is_the_least_pause(asked_s: float | None, pause_s: float) -> None:
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = 3
    future = Future(3)
    future.set_exception(errors.ServerUnavailable("m", retry_after_s=asked_s))
    state.outcome = future
    assert WaitForServer(longest_s=60, draw=most)(state) == pause_s


def test_the_first_request_to_stop_drains_and_the_second_ends_at_once() -> None:
    clock = [100.0]
    stop = Stop(drain_s=30, now=lambda: clock[0])
    assert (stop.is_asked(), stop.is_over()) == (False, False)
    stop.ask()
    assert (stop.is_asked(), stop.is_over()) == (True, False)
    clock[0] += 30
    assert stop.is_over()
    clock[0] -= 20
    assert not stop.is_over()
    stop.ask()
    assert stop.is_over()


def test_a_stop_before_sleeping_is_not_lost() -> None:
    stop = Stop(drain_s=1)
    stop.ask()
    started = time.monotonic()
    stop.sleep(30)
    assert time.monotonic() - started < 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise on Windows")
def test_a_signal_asks_and_the_old_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop, seen = Stop(drain_s=1), []
    with handled(stop, on_signal=lambda: seen.append(1)):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert stop.is_over()
    assert seen == [1, 1]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has the signal itself")
def test_ctrl_break_of_windows_asks_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    reloaded = importlib.reload(signals)
    try:
        stop = reloaded.Stop(drain_s=1)
        with reloaded.handled(stop):
            signal.raise_signal(signal.SIGUSR1)
        assert stop.is_asked()
    finally:
        monkeypatch.undo()
        importlib.reload(signals)


@pytest.mark.parametrize(
    ("returncode", "words"),
    [
        (-9, "memory ran out (SIGKILL)"),
        (-11, "segmentation fault"),
        (-6, "abort"),
        (3, "ended with exit code 3"),
        (0, "ended with exit code 0"),
        (0xC0000005, "access violation"),
        (0xC0000005 - (1 << 32), "signal"),
        (None, "stopped answering"),
    ],
)
def test_an_ending_is_told_in_words(returncode: int | None, words: str) -> None:
    assert words in ending_in_words(returncode)


@pytest.mark.parametrize(
    ("kind", "code", "cls"),
    [
        ("series_invalid", "sheared", errors.SeriesInvalid),
        ("out_of_memory", "out_of_memory", errors.EngineOutOfMemory),
        ("engine_broken", "cuda_fault", errors.EngineBroken),
        ("model_invalid", "model_changed", errors.ModelInvalid),
        ("bad_settings", "bad_settings", errors.SettingsError),
        ("failed", "model_without_codes", errors.ModelInvalid),
        ("failed", "x", errors.WorkerError),
        ("unheard of", "x", errors.WorkerError),
    ],
)
def test_what_the_child_said_becomes_an_error(
    kind: str, code: str, cls: type[errors.WorkerError]
) -> None:
    message = {"kind": kind, "code": code, "message": "A sentence.", "retryable": False}
    error = error_of(message)
    assert type(error) is cls
    assert (error.code, error.message, error.is_retryable) == (code, "A sentence.", False)


def test_an_event_is_one_line_with_its_fields() -> None:
    record = logging.makeLogRecord({"msg": "case_finished", "levelname": "INFO"})
    record.request_id = "r1"
    record.total_s = 12.3456
    record.reason = 'a "quoted"\nsentence'
    line = EventFormatter().format(record)
    assert "\n" not in line
    assert line.endswith(
        "case_finished request_id=r1 total_s=12.35 reason='a \"quoted\"\\nsentence'"
    )


def test_the_state_table_ends_in_stopped() -> None:
    assert all(source is not State.STOPPED for source, _ in TRANSITIONS)
    assert {target for _, target in TRANSITIONS} == set(State)


def test_a_work_folder_is_locked_against_other_processes_until_it_is_given_back(
    tmp_path: Path,
) -> None:
    lock = WorkFolderLock(tmp_path)
    lock.acquire()
    code = (
        "import sys; from pathlib import Path; from worker.lockfile import WorkFolderLock\n"
        "WorkFolderLock(Path(sys.argv[1])).acquire()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "in use by another worker" in refused.stderr
    lock.release()
    assert (
        subprocess.run(command, check=False, timeout=timedelta(seconds=30).seconds).returncode == 0
    )


def test_a_file_that_a_virus_scanner_holds_for_a_moment_is_moved_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, refusals = Path.replace, [PermissionError("in use"), PermissionError("in use")]

    def held(source: Path, target: Path) -> Path:
        if refusals:
            raise refusals.pop()
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", held)
    monkeypatch.setattr(durable, "_IS_WINDOWS", True)
    durable.write_json(tmp_path / "job.json", {"id": "1"})
    assert (tmp_path / "job.json").exists()
    assert not refusals


def test_a_move_that_is_not_allowed_is_no_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Path) -> Path:
        raise PermissionError("no right")

    monkeypatch.setattr(Path, "replace", refused)
    monkeypatch.setattr(durable, "_IS_WINDOWS", True)
    monkeypatch.setattr(durable, "_PAUSES_S", (0.0, 0.0))
    with pytest.raises(PermissionError):
        durable.write_json(tmp_path / "job.json", {"id": "1"})


def test_a_job_carries_the_order_of_its_series_to_the_child(tmp_path: Path) -> None:
    body: dict[str, Any] = {
        "request_id": "r",
        "manifest": [],
        "main_series_id": "s",
        "model": "m",
        "attempt": 1,
        "lease": {"id": "l", "expires_in": 90, "deadline_in": 1800},
    }
    assert Job.from_json(body).order == "given"  # a site from before it
    job = Job.from_json({**body, "order": "auto"})
    assert Job.from_json(job.to_json()) == job
    with pytest.raises(ValueError, match="expected given or auto"):
        Job.from_json({**body, "order": "by name"})
    case = Case(
        request_id="r",
        series=(),
        main_series_id="s",
        model="m",
        output_dir=tmp_path,
        order=job.order,
    )
    assert Case.from_json(case.to_json()).order == "auto"

from __future__ import annotations

import queue
from typing import Any

import pytest

from worker.case_child import Messages, ProgressReports, error_message, serve
from worker.core.errors import (
    EngineBroken,
    EngineOutOfMemory,
    ModelInvalid,
    SeriesInvalid,
    WorkerError,
)


@pytest.mark.parametrize(
    ("error", "kind", "code", "is_retryable"),
    [
        (SeriesInvalid("x", code="missing_slices"), "series_invalid", "missing_slices", False),
        (EngineOutOfMemory("x"), "out_of_memory", "out_of_memory", True),
        (MemoryError(), "out_of_memory", "out_of_memory", True),
        (EngineBroken("x"), "engine_broken", "engine_broken", True),
        (ModelInvalid("x", code="model_changed"), "model_invalid", "model_changed", False),
        (WorkerError("x"), "failed", "failed", True),
        (KeyError("PatientName"), "failed", "failed", True),
    ],
)
def test_error_tells_the_parent_what_to_do(
    error: Exception, kind: str, code: str, is_retryable: bool
) -> None:
    message = error_message(error)
    assert (message["kind"], message["code"]) == (kind, code)
    assert message["retryable"] is is_retryable


def test_unforeseen_error_does_not_carry_its_own_words() -> None:
    assert "Doe" not in error_message(ValueError("patient Doe"))["message"]


def test_progress_is_sent_four_times_a_second_and_at_each_change_of_stage() -> None:
    sent: list[dict[str, Any]] = []
    time = [100.0]
    report = ProgressReports(sent.append, now=lambda: time[0])
    for step in range(101):
        report("loading", step / 100)
        time[0] += 0.01
    report("inferring", 0.0)
    report("inferring", 0.01)
    stages = [(message["stage"], message["progress"]) for message in sent]
    assert stages[0] == ("loading", 0.0)
    assert stages[-2:] == [("loading", 1.0), ("inferring", 0.0)]
    assert len(stages) <= 7


class Broken:
    device = "cuda:0"

    def load(self, _: Any) -> None:
        raise AssertionError

    def segment(self, *_: Any) -> Any:
        raise AssertionError


def test_child_ends_with_70_after_a_device_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise EngineBroken("CUDA error")

    monkeypatch.setattr("worker.case_child.find_model", fail)
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    messages.put({"type": "warm", "model": "m"})
    sent: list[dict[str, Any]] = []
    code = serve(Messages(messages), sent.append, settings=None, engine=Broken())  # type: ignore[arg-type]
    assert code == 70
    assert (sent[0]["kind"], sent[0]["during"]) == ("engine_broken", "warm")

"""The demonstration's parts, without the site and the worker."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from demo import run
from demo.children import Child, Children, DemoError, run_to_end
from demo.front_end import FrontEnd
from demo.place import Place
from demo.report import STAGES, ProgressLine, describe_result, overall

REPOSITORY = Path(__file__).resolve().parents[3]
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]

RESULT: dict[str, Any] = {
    "tumor_detected": True,
    "tumor_volume_ml": 45.678,
    "segments": [
        {"number": 1, "label": "Enhancing tumour", "voxels": 1234, "volume_ml": 12.345},
        {"number": 2, "label": "Oedema", "voxels": 3333, "volume_ml": 33.333},
    ],
    "elapsed_time_seconds": 9.5,
    "total_slices": 60,
    "start_slice_index": 20,
    "end_slice_index": 31,
    "processed_by": "demo-worker",
    "model": {"name": "demo_brain_tumor", "version": "0.1.0", "sha256": "ab" * 32},
    "warnings": ["synthetic images"],
}


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    found = Children(tmp_path / "processes.json")
    yield found
    found.stop()


def start(children: Children, folder: Path, command: list[str]) -> Child:
    return children.start("sleeper", command, environ={}, log=folder / "sleeper.log", cwd=folder)


def test_stopping_ends_every_process_and_forgets_them(children: Children, tmp_path: Path) -> None:
    process = start(children, tmp_path, SLEEP).process
    children.remember()
    children.stop()
    assert process.returncode is not None
    assert not (tmp_path / "processes.json").exists()


def test_a_process_that_ended_is_told_with_the_end_of_its_log(
    children: Children, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", "print('no such table'); raise SystemExit(3)"]
    start(children, tmp_path, command).process.wait(10)
    with pytest.raises(DemoError, match=r"(?s)sleeper ended with exit code 3.*no such table"):
        children.check()


def test_what_a_killed_demonstration_left_is_ended(tmp_path: Path) -> None:
    state = tmp_path / "processes.json"
    with subprocess.Popen(SLEEP) as left:
        created = psutil.Process(left.pid).create_time()
        known = {"owner": {"pid": 2**22 + 5, "created": 1.0}}
        state.write_text(json.dumps({**known, "children": [{"pid": left.pid, "created": created}]}))
        Children(state).end_leftovers()
        assert not psutil.pid_exists(left.pid)
    assert not state.exists()


def test_a_later_process_with_a_noted_number_is_spared(tmp_path: Path) -> None:
    state = tmp_path / "processes.json"
    with subprocess.Popen(SLEEP) as other:
        state.write_text(json.dumps({"children": [{"pid": other.pid, "created": 1.0}]}))
        Children(state).end_leftovers()
        assert other.poll() is None
        other.kill()


def test_a_second_demonstration_is_refused_while_the_first_runs(
    children: Children, tmp_path: Path
) -> None:
    children.remember("http://127.0.0.1:9")
    with pytest.raises(DemoError, match=r"running already .*http://127\.0\.0\.1:9"):
        Children(tmp_path / "processes.json").end_leftovers()


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_torn_notes_of_an_earlier_one_are_ignored(tmp_path: Path, text: str) -> None:
    state = tmp_path / "processes.json"
    state.write_text(text)
    Children(state).end_leftovers()


def test_a_failed_preparation_shows_what_it_printed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no space'); raise SystemExit(1)"]
    with pytest.raises(DemoError, match=r"(?s)importing failed \(exit code 1.*no space"):
        run_to_end(
            command,
            environ={},
            log=tmp_path / "setup.log",
            cwd=tmp_path,
            timeout_s=30,
            what="importing",
        )
    assert "no space" in (tmp_path / "setup.log").read_text()


def test_result_is_told_with_millilitres_model_timings_and_files(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text(
        json.dumps({"result": {"timings": {"infer_s": 7.25, "nifti_s": 0.01, "note": "x"}}})
    )
    status = {"request_id": "r-1", "result": RESULT}
    text = describe_result(status, files=[tmp_path / "mask.dcm", report], request_seconds=11.0)
    for wanted in (
        "r-1",
        "Enhancing tumour",
        "12.35 mL  (1,234 voxels)",
        "45.68 mL in all, slices 21 to 32 of 60",
        "demo_brain_tumor 0.1.0 (demonstration, not for clinical use)",
        "infer 7.2 s, worker 9.5 s, request to mask 11.0 s",
        "synthetic images",
        str(tmp_path / "mask.dcm"),
    ):
        assert wanted in text


def test_no_lesion_is_a_result() -> None:
    result = {**RESULT, "tumor_detected": False, "segments": [], "warnings": []}
    text = describe_result({"request_id": "r", "result": result}, files=[], request_seconds=1)
    assert "none found" in text


def test_the_bar_only_grows_through_the_stages() -> None:
    places = [overall(stage, part) for stage in STAGES for part in (0.0, 0.5, 1.0)]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0.0, 1.0)
    assert overall("pending", 0.7) == 0.0


def test_a_log_gets_one_line_per_stage() -> None:
    lines: list[str] = []
    with ProgressLine(io.StringIO(), lines.append) as line:
        for stage, part in (("loading", 0.1), ("loading", 0.9), ("inferring", 0.2)):
            line.show("processing", stage, part)
        line.show("completed", "", 1)
    assert lines == ["loading", "inferring", "completed"]


class FakeFrontEnd(FrontEnd):
    """Answers from a list instead of the network."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        super().__init__("http://127.0.0.1:9", "none")
        self._answers = list(answers)

    def _call(self, method: str, path: str, **_: Any) -> dict[str, Any]:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def series(kind: str | None, uid: str) -> dict[str, Any]:
    return {"id": f"id-{uid}", "series_uid": uid, "sequence_type": kind, "description": "x"}


def test_series_go_in_channel_order_and_foreign_ones_stay_out() -> None:
    found = [series(kind, kind) for kind in ("FLAIR", "T1", "T2", "T1c")]
    front_end = FakeFrontEnd({"series": [*found, series("T1", "another patient's")]})
    chosen = run._choose_series(front_end, {"T1", "T1c", "T2", "FLAIR"})
    assert chosen == ["id-T1c", "id-T1", "id-T2", "id-FLAIR"]


def test_a_sequence_that_was_not_recognised_is_named() -> None:
    front_end = FakeFrontEnd({"series": [series("T1", "a"), series(None, "b")]})
    with pytest.raises(DemoError, match="T1c, T2, FLAIR was not found"):
        run._choose_series(front_end, {"a", "b"})


def test_following_ends_with_the_request() -> None:
    going = {"status": "processing", "stage": "inferring", "progress": 0.5}
    front_end = FakeFrontEnd(going, {"status": "completed"})
    states = front_end.follow("r", timeout_s=60, check=lambda: None, sleep=lambda _: None)
    assert [state.status for state in states] == ["processing", "completed"]


def test_following_gives_up_in_time() -> None:
    now = iter(range(100))
    front_end = FakeFrontEnd({"status": "pending", "stage": None, "progress": None})
    states = front_end.follow(
        "r", timeout_s=5, check=lambda: None, sleep=lambda _: None, clock=lambda: next(now)
    )
    with pytest.raises(DemoError, match="not finished within 5 s"):
        list(states)


def test_settings_of_the_callers_own_site_stay_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DATABASE_URL", "SECRET_KEY", "MODEL_PATH", "SEGMENTATION_WAIT_SECONDS"):
        monkeypatch.setenv(name, "foreign")
    monkeypatch.setenv("DEVICE", "cpu")
    environ = Place(REPOSITORY, tmp_path)._environ()
    assert "foreign" not in environ.values()
    assert environ["DEVICE"] == "cpu"
    assert environ["USE_LOCAL_INFERENCE"] == "true"

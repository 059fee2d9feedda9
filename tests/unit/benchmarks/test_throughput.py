"""The throughput benchmark's reading and settings; its run needs a site, a worker and minutes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from benchmarks import throughput
from benchmarks.throughput import WAITING, Run, Setup, ThroughputPlace


def place(folder: Path, **settings: int) -> ThroughputPlace:
    made = ThroughputPlace(folder, Setup(model=WAITING, device_s=1.5, **settings))
    made.make()
    return made


def test_the_worker_keeps_no_images_and_runs_the_network_that_waits(tmp_path: Path) -> None:
    config = yaml.safe_load(place(tmp_path, processes=2, prefetch=0)._write_config().read_text())
    assert config["cache"] == {"max_bytes": 0}
    assert (config["inference"]["processes"], config["worker"]["prefetch"]) == (2, 0)
    assert list(config["models"]) == [WAITING]
    bundle = Path(config["models"][WAITING]["path"])
    network = json.loads((bundle / "configs" / "inference.json").read_text())["network_def"]
    assert network == {"_target_": "scripts.waiting.Waiting", "seconds": 1.5}


def test_a_worker_is_left_as_it_is_set_up_by_default(tmp_path: Path) -> None:
    config = yaml.safe_load(place(tmp_path)._write_config().read_text())
    assert "processes" not in config["inference"]


def test_finished_cases_are_read_from_the_log_of_the_worker(tmp_path: Path) -> None:
    made = place(tmp_path)
    lines = [
        "a library's own words",
        '{"event": "case_started", "time": "2026-01-01T00:00:00+00:00"}',
        '{"event": "case_finished", "time": "2026-01-01T00:00:02+00:00", "infer_s": 2.5}',
        "12",
    ]
    (made.logs / "worker.log").write_text("\n".join(lines))
    assert [event["infer_s"] for event in made.finished()] == [2.5]


def test_the_slowest_stage_is_named() -> None:
    run = Run(
        cases=3,
        seconds_per_case=2.0,
        first_to_last_s=4.0,
        worker_cpu_s_per_case=1.0,
        stages={"load": 0.5, "infer": 1.9, "write": 0.4},
    )
    assert run.slowest == ("infer", 1.9)


def test_one_case_has_no_rate() -> None:
    with pytest.raises(SystemExit):
        throughput.main(["--cases", "1"])

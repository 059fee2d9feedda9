"""The real child: its own process, a real bundle, real DICOM files, JSON lines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from tests.integration.engine.bundles import (
    LOAD,
    SIGMOID,
    THRESHOLD,
    compose,
    write_bundle,
)
from tests.support.dicom_phantoms import AXIAL, LESION, lesion, write_series
from worker.adapters.case_pool import CasePool
from worker.adapters.case_process import CaseProcess, child_command
from worker.adapters.device_turn import DeviceTurn
from worker.core.errors import EngineCrashed, ModelInvalid, SeriesInvalid
from worker.core.job import Case, SeriesFiles
from worker.model_pins import hash_files, pin_of, write_pin

NAMES = ("lesions", "noisy", "crashing", "changed")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a configuration with bundles that find the phantom's lesion, and one that crashes."""
    root = tmp_path_factory.mktemp("한글 folder")
    noisy = {
        "_target_": "Lambdad",
        "keys": "pred",
        "func": "$lambda x: (print('{\"type\": \"result\"}'), os.write(1, b'noise'), x)[2]",
    }
    crash = {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: os.abort()"}
    extra = {"lesions": [], "noisy": [noisy], "crashing": [crash], "changed": []}
    for name in NAMES:
        path = write_bundle(
            root / name,
            channels=("T1",),
            outputs=("lesion",),
            preprocessing=compose(LOAD),
            postprocessing=compose(SIGMOID, THRESHOLD, *extra[name]),
            weights={
                "weight": torch.full((1, 1, 1, 1, 1), 1.0),
                "bias": torch.tensor([-LESION + 0.5]),
            },
        )
        files = hash_files(path)
        write_pin(root / "config.yaml", name, pin_of("1.2.3", files))
    (root / "changed" / "configs" / "extra.py").write_text("print('new')")
    code = {"value": "49755003", "scheme": "SCT", "meaning": "Morphologically Abnormal Structure"}
    kind = {"value": "108369006", "scheme": "SCT", "meaning": "Neoplasm"}
    segments = {1: {"label": "Lesion", "category": code, "type": kind}}
    body: dict[str, Any] = {
        "default_model": "lesions",
        "inference": {"device": "cpu"},
        "models": {name: {"path": name, "segments": segments} for name in NAMES},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(body), encoding="utf-8")
    return root / "config.yaml"


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return write_series(tmp_path_factory.mktemp("series"))


@pytest.fixture(scope="module")
def child(config: Path) -> Iterator[CaseProcess]:
    process = CaseProcess([sys.executable, "-m", "worker.case_child", "--config", str(config)])
    yield process
    process.close()


def case(files: tuple[Path, ...], out: Path, model: str = "lesions") -> Case:
    return Case(
        request_id="local",
        series=(SeriesFiles(series_id="a", files=files),),
        main_series_id="a",
        model=model,
        output_dir=out,
    )


def test_two_cases_on_one_warm_child_give_the_lesion(
    child: CaseProcess, series: tuple[Path, ...], tmp_path: Path
) -> None:
    child.keep_warm("lesions")
    seen: list[tuple[str, float]] = []
    first = child.run(case(series, tmp_path / "1"), on_progress=lambda *at: seen.append(at))
    second = child.run(case(series, tmp_path / "2"), on_progress=lambda *_: None)
    truth = lesion(AXIAL) > 0
    assert first.tumor_volume_voxels == second.tumor_volume_voxels == truth.sum()
    assert first.sop_instance_uid == second.sop_instance_uid
    assert list(dict.fromkeys(stage for stage, _ in seen)) == ["loading", "inferring", "writing"]
    assert child.device == "cpu"
    mask = np.asarray(nib.load(tmp_path / "1" / "mask.nii.gz").dataobj)
    assert mask.sum() == truth.sum()
    assert "Tests only" in " ".join(first.warnings)


def test_real_children_share_a_device_in_turns(
    config: Path, series: tuple[Path, ...], tmp_path: Path
) -> None:
    def make(device: str, turn: DeviceTurn) -> CaseProcess:
        return CaseProcess(child_command(config, device), device_turn=turn)

    pool = CasePool(make, ("cpu",), lambda _: 2)
    try:
        pool.start()
        pool.wait_ready()
        cases = [
            replace(case(series, tmp_path / str(number)), request_id=str(number))
            for number in range(4)
        ]
        with ThreadPoolExecutor(len(cases)) as threads:
            results = list(
                threads.map(lambda item: pool.run(item, on_progress=lambda *_: None), cases)
            )
    finally:
        pool.close()
    truth = (lesion(AXIAL) > 0).sum()
    assert [result.tumor_volume_voxels for result in results] == [truth] * 4
    assert len({result.sop_instance_uid for result in results}) == 4
    assert all("wait" in result.timings for result in results)


def test_what_a_library_prints_does_not_disturb_the_protocol(
    child: CaseProcess, series: tuple[Path, ...], tmp_path: Path
) -> None:
    result = child.run(case(series, tmp_path / "out", "noisy"), on_progress=lambda *_: None)
    assert result.tumor_detected


def test_refused_case_names_the_reason_and_leaves_the_child_working(
    child: CaseProcess, series: tuple[Path, ...], tmp_path: Path
) -> None:
    with pytest.raises(SeriesInvalid):
        child.run(case(series[:5] + series[6:], tmp_path / "a"), on_progress=lambda *_: None)
    with pytest.raises(ModelInvalid, match=r"models add changed") as refused:
        child.run(case(series, tmp_path / "b", "changed"), on_progress=lambda *_: None)
    assert refused.value.code == "model_changed"
    assert child.run(case(series, tmp_path / "c"), on_progress=lambda *_: None).tumor_detected


def test_crash_in_native_code_ends_the_case_and_the_next_one_works(
    child: CaseProcess, series: tuple[Path, ...], tmp_path: Path
) -> None:
    with pytest.raises(EngineCrashed):
        child.run(case(series, tmp_path / "a", "crashing"), on_progress=lambda *_: None)
    assert child.run(case(series, tmp_path / "b"), on_progress=lambda *_: None).tumor_detected


def start(config: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "worker.case_child", "--config", str(config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def test_child_ends_when_its_parent_is_gone(config: Path) -> None:
    with start(config) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert (ready["type"], ready["device"]) == ("ready", "cpu")
        process.stdin.close()
        assert process.wait(timeout=20) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="stops a process with a POSIX signal")
def test_child_in_the_middle_of_a_case_ends_when_its_parent_is_gone(
    config: Path, series: tuple[Path, ...], tmp_path: Path
) -> None:
    with start(config) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        body = {"type": "case", **case(series, tmp_path / "out").to_json()}
        process.stdin.write(json.dumps(body).encode() + b"\n")
        process.stdin.flush()
        process.stdout.readline()
        process.stdin.close()
        assert process.wait(timeout=20) == 0


def test_unknown_and_unreadable_messages_are_answered(config: Path) -> None:
    with start(config) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b'nonsense\n{"type": "dance"}\n')
        process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.stdin.write(b'{"type": "exit"}\n')
        process.stdin.flush()
        assert process.wait(timeout=20) == 0
    assert [answer.get("code") for answer in answers] == [None, "protocol", "protocol"]


def test_settings_that_are_wrong_are_told_before_it_ends(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("inference: {device: gpu}\n")
    with start(tmp_path / "config.yaml") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["code"] == "bad_settings"
        assert process.wait(timeout=20) == 78

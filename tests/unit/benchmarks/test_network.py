"""The command that measures a model, with a network whose mask is known, on the CPU."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from benchmarks import network
from benchmarks.made_case import make_case
from tests.integration.engine.bundles import (
    BRATS_VALUES,
    LOAD,
    SIGMOID,
    SLIDING,
    THRESHOLD,
    compose,
    describe,
    write_bundle,
)
from tests.integration.engine.cards import hungry_network
from worker.adapters.engine_monai import MonaiEngine
from worker.model_memory import ModelMemory

SIZE = (36, 32, 20, 4)
CHANNELS = ("T1c", "T1", "T2", "FLAIR")


def test_every_figure_is_measured_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_bundle(
        tmp_path / "bundle",
        channels=CHANNELS,
        outputs=CHANNELS,
        network=hungry_network(4),
        preprocessing=compose(LOAD),
        postprocessing=compose(SIGMOID, THRESHOLD, BRATS_VALUES),
        inferer={**SLIDING, "roi_size": [32, 32, 16], "overlap": 0.25},
        weights={"weight": torch.full((4, 4, 1, 1, 1), 0.02), "bias": torch.full((4,), -9.0)},
    )
    known = ModelMemory(tmp_path / "known")
    options = argparse.Namespace(size=SIZE, rounds=1, with_compile=False)
    figures = network.measure_entry(
        tmp_path,
        make_case(tmp_path / "case", SIZE),
        describe(path),
        MonaiEngine("cpu", known=known),
        known,
        options,
    )
    assert known.entries()[0].mode == figures.found.best.mode
    assert figures.own.least_dice == 1.0
    assert 0 < figures.until_seg_s <= figures.whole_s[0]
    assert figures.seg_bytes > 1000
    body = json.loads(json.dumps(figures.to_json()))
    assert body["network_times_faster"] > 0
    network.show(figures)
    told = capsys.readouterr().out
    assert "case: files to DICOM SEG" in told
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark

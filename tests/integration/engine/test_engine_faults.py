from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from tests.integration.engine.bundles import blobs, describe, write_bundle
from worker.adapters.engine_monai import MonaiEngine, choose_device
from worker.adapters.engine_monai.faults import mapped_faults
from worker.core.errors import (
    EngineBroken,
    EngineOutOfMemory,
    ModelInvalid,
    SettingsError,
    WorkerError,
)

CPU = torch.device("cpu")


class Failing(torch.nn.Module):
    error: ClassVar[Exception]

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        raise self.error


def run(tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Failing, "error", error, raising=False)
    network = {"_target_": f"{Failing.__module__}.Failing"}
    path = write_bundle(tmp_path / "b", network=network, has_weights=False)
    entry = describe(path, allow_random_weights=True)
    MonaiEngine("cpu").segment(entry, blobs(), np.eye(4), lambda _: None)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), EngineOutOfMemory),
        (MemoryError(), EngineOutOfMemory),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate"),
            EngineOutOfMemory,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), EngineOutOfMemory),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), EngineBroken),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), EngineBroken),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), EngineBroken),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ModelInvalid),
    ],
)
def test_what_torch_raises_carries_the_decision(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    expected: type[WorkerError],
) -> None:
    with pytest.raises(expected) as raised:
        run(tmp_path, error, monkeypatch)
    assert type(raised.value) is expected


def test_memory_that_really_runs_out_is_told_as_that() -> None:
    with pytest.raises(EngineOutOfMemory), mapped_faults("testing", CPU):
        torch.empty(2**50)


def test_cause_inside_a_transform_decides_not_its_wrapper() -> None:
    wrapper = RuntimeError("applying transform")
    wrapper.__cause__ = MemoryError()
    with pytest.raises(EngineOutOfMemory), mapped_faults("testing", CPU):
        raise wrapper


def test_engine_works_on_after_memory_ran_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = MonaiEngine("cpu")
    entry = describe(write_bundle(tmp_path / "b"))
    forward = torch.nn.Conv3d.forward

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.Conv3d, "forward", fail)
    with pytest.raises(EngineOutOfMemory):
        engine.segment(entry, blobs(), np.eye(4), lambda _: None)
    monkeypatch.setattr(torch.nn.Conv3d, "forward", forward)
    labels = engine.segment(entry, blobs(), np.eye(4), lambda _: None)
    assert labels.present_values() == {1, 2, 4}


def test_device_that_is_not_there_is_a_mistake_in_the_settings() -> None:
    with pytest.raises(SettingsError, match="DEVICE: cuda:99"):
        choose_device("cuda:99")
    assert choose_device("cpu") == CPU

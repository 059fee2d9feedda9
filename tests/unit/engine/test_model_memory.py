from __future__ import annotations

import json
from pathlib import Path

import pytest

from worker.model_memory import (
    FILE_NAME,
    MEASURED,
    STEPPED_DOWN,
    Mode,
    ModelMemory,
    Remembered,
    Where,
    shape_class,
)

FAST = Mode(precision="fp16", layout="channels_last_3d", window_batch=4)
SMALL = Mode(window_batch=1, stitching="host", window=(64, 64, 32))


def where(shape: tuple[int, int, int] = (256, 256, 160), **other: str) -> Where:
    known = {"model_sha256": "a" * 64, "device": "card, 24 GiB", "torch": "2.13.0", **other}
    return Where(shape=shape, **known)


def measured(place: Where, mode: Mode = FAST) -> Remembered:
    return Remembered(where=place, mode=mode, reason=MEASURED, evidence={"seconds": 0.5})


def test_what_worked_is_known_to_the_next_process(tmp_path: Path) -> None:
    ModelMemory(tmp_path / "work").keep(measured(where()))
    found = ModelMemory(tmp_path / "work").recall(where())
    assert found == measured(where())


def test_later_mode_of_the_same_place_replaces_the_earlier(tmp_path: Path) -> None:
    memory = ModelMemory(tmp_path)
    memory.keep(measured(where()))
    memory.keep(Remembered(where=where(), mode=SMALL, reason=STEPPED_DOWN))
    assert [item.mode for item in memory.entries()] == [SMALL]


@pytest.mark.parametrize("other", [{"model_sha256": "b" * 64}, {"device": "cpu"}, {"torch": "3"}])
def test_another_model_device_or_torch_learns_anew(tmp_path: Path, other: dict[str, str]) -> None:
    memory = ModelMemory(tmp_path)
    memory.keep(measured(where()))
    assert memory.recall(where(**other)) is None


def test_measured_on_a_larger_volume_counts_for_a_smaller_and_not_the_other_way() -> None:
    memory = ModelMemory()
    memory.keep(measured(where((256, 256, 160))))
    memory.keep(measured(where((512, 512, 512)), SMALL))
    found = memory.recall(where((192, 192, 64)))
    assert found is not None
    assert found.mode == FAST
    assert memory.recall(where((1024, 32, 32))) is None


def test_one_pass_holds_for_its_own_class_alone() -> None:
    memory = ModelMemory()
    memory.keep(measured(where(), Mode(precision="fp16", is_one_pass=True)))
    smaller = memory.recall(where((128, 128, 128)))
    assert smaller is not None
    assert smaller.mode == Mode(precision="fp16")
    assert memory.recall(where()) == measured(where(), Mode(precision="fp16", is_one_pass=True))


def test_stepping_down_on_a_large_volume_does_not_slow_a_small_one() -> None:
    memory = ModelMemory()
    memory.keep(Remembered(where=where((512, 512, 512)), mode=SMALL, reason=STEPPED_DOWN))
    assert memory.recall(where((256, 256, 160))) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 2}',
        '{"format": 1, "entries": [{"where": {}}]}',
        json.dumps(
            {
                "format": 1,
                "entries": [{**measured(where()).to_json(), "mode": {"precision": "fp64"}}],
            }
        ),
        json.dumps(
            {
                "format": 1,
                "entries": [{**measured(where()).to_json(), "mode": {"window_batch": "8"}}],
            }
        ),
    ],
)
def test_damaged_file_is_begun_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text, encoding="utf-8")
    memory = ModelMemory(tmp_path)
    assert memory.recall(where()) is None
    memory.keep(measured(where()))
    assert ModelMemory(tmp_path).recall(where()) == measured(where())


def test_deleted_file_is_forgotten(tmp_path: Path) -> None:
    memory = ModelMemory(tmp_path)
    memory.keep(measured(where()))
    (tmp_path / FILE_NAME).unlink()
    assert memory.recall(where()) is None


def test_folder_that_takes_no_file_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("a file where the folder should be")
    memory = ModelMemory(tmp_path / "work")
    memory.keep(measured(where()))
    assert memory.recall(where()) == measured(where())


def test_one_model_or_all_are_forgotten(tmp_path: Path) -> None:
    memory = ModelMemory(tmp_path)
    memory.keep(measured(where()))
    memory.keep(measured(where(model_sha256="b" * 64)))
    assert memory.forget("a" * 64) == 1
    assert memory.recall(where()) is None
    assert memory.forget() == 1
    assert memory.entries() == ()


def test_volumes_of_nearly_the_same_size_share_a_class() -> None:
    assert shape_class((240, 240, 155)) == shape_class((256, 230, 140)) == (256, 256, 160)

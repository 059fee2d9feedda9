"""Memory that runs out: what is tried next, what is remembered, what is said."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.integration.engine.bundles import (
    SLIDING,
    blobs,
    describe,
    expected_labels,
    write_bundle,
)
from tests.integration.engine.cards import Card, Hungry, hungry_network
from worker.adapters.engine_monai import MonaiEngine
from worker.adapters.engine_monai import engine as engine_module
from worker.core.errors import EngineOutOfMemory, ModelInvalid
from worker.core.segments import Labels
from worker.model_memory import SIZED, STEPPED_DOWN, Mode, ModelMemory

SHAPE = (72, 30, 36)  # four windows
WINDOW = 3 * 64 * 32 * 32  # values that the network gets for one
BATCHED = {**SLIDING, "roi_size": [64, 32, 32], "sw_batch_size": 4}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("limit", float("inf")), ("seen", []), ("channels_last", [])):
        monkeypatch.setattr(Hungry, name, value)


def bundle(folder: Path, *, inferer: dict[str, Any] = BATCHED, **options: Any) -> Any:
    path = write_bundle(folder, network=hungry_network(), inferer=inferer)
    return describe(path, **{"amp": False, **options})


def run(engine: MonaiEngine, entry: Any, image: np.ndarray | None = None) -> Labels:
    return engine.segment(
        entry, blobs(SHAPE) if image is None else image, np.eye(4), lambda _: None
    )


def right(labels: Labels) -> bool:
    return bool((labels.array == expected_labels(blobs(SHAPE))).all())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate"),
    ],
    ids=["cuda", "python", "cpu"],
)
def test_fewer_windows_at_once_are_tried_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(Hungry, "error", error)
    monkeypatch.setattr(Hungry, "limit", 2 * WINDOW)
    entry = bundle(tmp_path / "b")
    known = ModelMemory(tmp_path / "work")
    labels = run(MonaiEngine("cpu", known=known), entry)
    assert right(labels)
    assert labels.notes == ()
    (item,) = known.entries()
    assert (item.mode, item.reason) == (Mode(window_batch=2), STEPPED_DOWN)

    Hungry.seen.clear()
    assert right(run(MonaiEngine("cpu", known=ModelMemory(tmp_path / "work")), entry))
    assert max(shape[0] for shape in Hungry.seen) == 2


def test_smaller_window_is_said_with_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hungry, "limit", WINDOW - 1)
    known = ModelMemory()
    entry = bundle(tmp_path / "b")
    labels = run(MonaiEngine("cpu", known=known), entry)
    assert right(labels)
    (note,) = labels.notes
    assert "smaller windows (32x32x32 voxels)" in note
    assert "(64x32x32)" in note
    assert known.entries()[0].mode == Mode(window=(32, 32, 32), window_batch=1)
    # Said each time, not only when it was found out.
    assert run(MonaiEngine("cpu", known=known), entry).notes == (note,)


def test_card_stitches_on_the_host_before_windows_get_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hungry, "limit", WINDOW - 1)
    known = ModelMemory()
    card = Card()
    assert right(run(MonaiEngine(card, known=known), bundle(tmp_path / "b")))
    assert known.entries()[0].mode == Mode(window=(32, 32, 32), window_batch=1, stitching="host")
    assert card.released >= 2


def test_nothing_that_fits_is_told_and_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hungry, "limit", 0)
    known = ModelMemory()
    engine, entry = MonaiEngine("cpu", known=known), bundle(tmp_path / "b")
    with pytest.raises(EngineOutOfMemory, match="close other programs"):
        run(engine, entry)
    assert known.entries() == ()
    monkeypatch.setattr(Hungry, "limit", float("inf"))
    assert right(run(engine, entry))


class Fixed(Hungry):
    """Takes one size of window only."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        if given.shape[2:] != (64, 32, 32):
            raise RuntimeError("The size of tensor a (16) must match the size of tensor b (32)")
        return super().forward(given)


def test_network_that_takes_no_other_window_is_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hungry, "limit", 0)
    network = {**hungry_network(), "_target_": f"{Fixed.__module__}.Fixed"}
    entry = describe(write_bundle(tmp_path / "b", network=network, inferer=BATCHED))
    with pytest.raises(EngineOutOfMemory, match="doesn't take a smaller one"):
        run(MonaiEngine("cpu"), entry)


def test_failed_try_leaves_no_tensor_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def forward(self: Hungry, given: torch.Tensor) -> torch.Tensor:
        alive.extend(reference() is not None for reference in left)
        left.clear()
        if given.shape[0] > 1:
            activation = given * 2
            left.append(weakref.ref(activation))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.nn.Conv3d.forward(self, given)

    monkeypatch.setattr(Hungry, "forward", forward)
    assert right(run(MonaiEngine("cpu"), bundle(tmp_path / "b")))
    assert alive == [False, False]


def test_windows_are_sized_to_the_cards_memory_once(tmp_path: Path) -> None:
    card = Card(free_bytes=10**9)
    card.window_bytes = 3 * 10**8
    known = ModelMemory()
    entry = bundle(tmp_path / "b", inferer={**BATCHED, "sw_batch_size": 1})
    assert right(run(MonaiEngine(card, known=known), entry))
    (item,) = known.entries()
    assert (item.mode, item.reason) == (Mode(window_batch=2), SIZED)
    assert [shape[0] for shape in Hungry.seen] == [1, 2, 2]  # the first is the try
    Hungry.seen.clear()
    assert right(run(MonaiEngine(card, known=known), entry))
    assert [shape[0] for shape in Hungry.seen] == [2, 2]


def test_settings_come_before_what_was_sized(tmp_path: Path) -> None:
    known = ModelMemory()
    run(MonaiEngine(Card(), known=known), bundle(tmp_path / "b", window_batch=3))
    assert [shape[0] for shape in Hungry.seen] == [3, 1]
    assert known.entries() == ()


def test_half_precision_that_overflows_is_full_precision_from_then_on(tmp_path: Path) -> None:
    known = ModelMemory()
    entry = bundle(tmp_path / "b", amp=True)
    entry = replace(entry, options={})
    image = blobs(SHAPE) * 3e4
    engine = MonaiEngine(Card(), known=known)
    path = write_bundle(tmp_path / "mixed", network=hungry_network(), inferer=BATCHED)
    mixed = describe(path)
    labels = run(engine, mixed, image)
    assert (labels.array == expected_labels(image)).all()
    assert known.entries()[0].mode.precision == "float32"
    tries = len(Hungry.seen)
    run(engine, mixed, image)
    assert len(Hungry.seen) - tries < tries


def test_layout_and_precision_reach_the_network_on_a_card_and_never_on_the_cpu(
    tmp_path: Path,
) -> None:
    entry = bundle(tmp_path / "b", channels_last_3d=True, amp="bf16")
    card = MonaiEngine(Card())
    assert right(run(card, entry))
    assert all(Hungry.channels_last)
    weight = card.parts(entry).network.weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    Hungry.channels_last.clear()
    assert right(run(MonaiEngine("cpu"), entry))
    assert not any(Hungry.channels_last)


def test_one_pass_is_one_call(tmp_path: Path) -> None:
    assert right(run(MonaiEngine("cpu"), bundle(tmp_path / "b", one_pass=True)))
    assert Hungry.seen == [(1, 3, 96, 64, 32)]


def test_models_that_were_warm_make_room_for_the_one_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = MonaiEngine("cpu")
    entries = [replace(bundle(tmp_path / name), name=name) for name in ("first", "second")]
    first = weakref.ref(engine.parts(entries[0]).network)
    load = engine_module.load_bundle

    def load_if_there_is_room(*given: Any) -> Any:
        if first() is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return load(*given)

    monkeypatch.setattr(engine_module, "load_bundle", load_if_there_is_room)
    engine.load(entries[1])
    assert first() is None
    monkeypatch.setattr(engine_module, "load_bundle", lambda *_: torch.empty(2**50))
    with pytest.raises(EngineOutOfMemory):
        engine.load(entries[0])


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), TypeError("numpy")]
)
def test_preprocessing_that_a_card_cannot_do_is_done_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    places: list[torch.device | None] = []
    prepare = engine_module.prepare

    def prepare_on_the_host(*given: Any) -> Any:
        places.append(given[3] if len(given) > 3 else None)
        if places[-1] is not None:
            raise error
        return prepare(*given)

    monkeypatch.setattr(engine_module, "prepare", prepare_on_the_host)
    engine, entry = MonaiEngine(Card()), bundle(tmp_path / "b")
    assert right(run(engine, entry))
    assert right(run(engine, entry))
    assert places == [torch.device("cpu"), None, None]


def test_only_steps_known_to_be_the_same_run_on_a_card(tmp_path: Path) -> None:
    from tests.integration.engine.bundles import ORIENTATION, compose
    from worker.adapters.engine_monai.steps import is_same_on_a_card

    own = {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x"}
    for name, steps, expected in (
        ("known", [ORIENTATION], True),
        ("own", [ORIENTATION, own], False),
    ):
        path = write_bundle(tmp_path / name, preprocessing=compose(compose(*steps)))
        parts = MonaiEngine("cpu").parts(describe(path))
        assert is_same_on_a_card(parts.preprocessing) is expected


def test_postprocessing_that_does_not_fit_on_a_card_is_done_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []
    postprocess = engine_module.postprocess

    def postprocess_the_second_time(*given: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return postprocess(*given)

    monkeypatch.setattr(engine_module, "postprocess", postprocess_the_second_time)
    assert right(run(MonaiEngine(Card()), bundle(tmp_path / "b")))
    assert len(tries) == 2


def test_other_threads_are_not_disturbed_and_do_not_disturb(tmp_path: Path) -> None:
    """One thread infers; another has gradients, its own warning filters and its own faults."""
    import warnings

    from worker.adapters.engine_monai.faults import mapped_faults

    engine, entry = MonaiEngine("cpu"), bundle(tmp_path / "b")
    engine.load(entry)
    inside, done = threading.Event(), threading.Event()
    found: list[Any] = []

    def other() -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                inside.wait(60)
                found.append(torch.is_inference_mode_enabled())
                with pytest.raises(ModelInvalid), mapped_faults("x", torch.device("cpu")):
                    raise ValueError
        finally:
            done.set()

    thread = threading.Thread(target=other)
    thread.start()
    threads = torch.get_num_threads()

    def wait(_: float) -> None:
        inside.set()
        done.wait(60)

    labels = engine.segment(entry, blobs(SHAPE), np.eye(4), wait)
    thread.join()
    assert right(labels)
    assert found == [False]
    assert torch.get_num_threads() == threads
    assert not torch.is_inference_mode_enabled()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_memory_that_really_runs_out_steps_down(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.integration.engine.short_of_memory", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (item,) = json.loads(done.stdout.splitlines()[-1])["remembered"]
    assert item["reason"] == STEPPED_DOWN
    assert item["mode"]["window_batch"] < 8

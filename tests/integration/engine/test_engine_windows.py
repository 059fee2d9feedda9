"""What is decided about windows, against what MONAI does with it."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SimpleInferer, SlidingWindowInferer

from worker.adapters.engine_monai import windows
from worker.model_memory import Mode, Shape


def sliding(roi: object = (32, 32, 16), batch: int = 1, overlap: float = 0.25) -> object:
    return SlidingWindowInferer(roi_size=roi, sw_batch_size=batch, overlap=overlap, mode="gaussian")


def calls(inferer: object, shape: Shape) -> list[tuple[int, ...]]:
    seen: list[tuple[int, ...]] = []

    def network(given: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(given.shape))
        return given.clone()  # MONAI weighs what it gets in place

    image = torch.rand(1, 1, *shape)
    output = inferer(image, network)
    assert output.shape == image.shape
    torch.testing.assert_close(output, image)
    return seen


@pytest.mark.parametrize("shape", [(32, 32, 16), (40, 70, 33), (8, 100, 5)])
@pytest.mark.parametrize("roi", [(32, 32, 16), (-1, 32, 16), 24])
def test_windows_and_calls_are_counted_as_monai_makes_them(roi: object, shape: Shape) -> None:
    inferer = sliding(roi)
    assert windows.count_windows(inferer, shape) == len(calls(inferer, shape))
    batched = windows.inferer_for(Mode(window_batch=3), inferer, shape)
    assert windows.count_calls(batched, shape) == len(calls(batched, shape))
    assert inferer.sw_batch_size == 1


@pytest.mark.parametrize("shape", [(40, 70, 33), (8, 100, 5)])
def test_one_pass_is_one_divisible_window(shape: Shape) -> None:
    inferer = windows.inferer_for(Mode(is_one_pass=True), sliding(), shape)
    (seen,) = calls(inferer, shape)
    assert [side % factor for side, factor in zip(seen[2:], (32, 32, 16), strict=True)] == [0] * 3


def test_stitching_on_the_host_and_small_windows_reach_monai() -> None:
    mode = Mode(stitching="host", window=(16, 32, 16))
    inferer = windows.inferer_for(mode, sliding(), (40, 40, 20))
    assert inferer.device == "cpu"
    assert {seen[2:] for seen in calls(inferer, (40, 40, 20))} == {(16, 32, 16)}


def test_inferer_that_does_not_slide_is_left_alone() -> None:
    simple = SimpleInferer()
    assert windows.inferer_for(Mode(window_batch=4), simple, (9, 9, 9)) is simple
    assert windows.count_calls(simple, (9, 9, 9)) == 1
    assert windows.step_down(Mode(), simple, (9, 9, 9), is_card=True) is None


def ladder(inferer: object, shape: Shape, *, is_card: bool, first: Mode | None = None) -> list[str]:
    mode: Mode | None = first or Mode()
    steps = []
    while True:
        mode = windows.step_down(mode, inferer, shape, is_card=is_card)
        if mode is None:
            return steps
        steps.append(mode.describe().removeprefix("float32, "))


def test_steps_down_what_changes_least_first_to_the_smallest_that_the_network_allows() -> None:
    inferer = sliding((240, 240, 160), batch=4, overlap=0.5)
    steps = ladder(inferer, (400, 300, 200), is_card=True)
    assert steps[:3] == [
        "2 windows at once",
        "1 windows at once",
        "1 windows at once, stitched on the CPU",
    ]
    small = [step.split(",")[0].removeprefix("windows of ") for step in steps[3:]]
    assert small[:3] == ["128x240x160", "128x128x160", "128x128x96"]
    assert small[-1] == "64x64x64"
    for size in small:
        sides = [int(side) for side in size.split("x")]
        assert [side % factor for side, factor in zip(sides, (16, 16, 32), strict=True)] == [0] * 3


def test_on_the_cpu_stitching_is_where_it_was() -> None:
    steps = ladder(sliding((64, 64, 64), batch=2), (100, 100, 100), is_card=False)
    assert steps == [
        "1 windows at once",
        "windows of 32x64x64, 1 windows at once",
        "windows of 32x32x64, 1 windows at once",
        "windows of 32x32x32, 1 windows at once",
    ]


def test_one_pass_falls_back_to_the_models_windows() -> None:
    first = Mode(is_one_pass=True)
    steps = ladder(sliding((64, 64, 64)), (100, 100, 100), is_card=True, first=first)
    assert steps[:2] == ["float32", "stitched on the CPU"]


def test_batch_that_was_never_full_is_not_halved_in_vain() -> None:
    steps = ladder(sliding((64, 64, 64), batch=16), (60, 60, 60), is_card=False)
    assert steps[0].startswith("windows of")


@pytest.mark.parametrize(
    ("windows_", "free", "expected"),
    [(8, 10_000, 8), (8, 650, 4), (9, 650, 3), (100, 10_000_000, 15), (8, 90, 1), (1, 9_999, 1)],
)
def test_batch_fits_into_the_memory_and_leaves_no_small_rest(
    windows_: int, free: int, expected: int
) -> None:
    batch = windows.fitting_batch(
        windows=windows_, window_bytes=100, stitch_bytes=100, free_bytes=free
    )
    assert batch == expected

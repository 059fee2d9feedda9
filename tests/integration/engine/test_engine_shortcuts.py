"""What is done in fewer passes than MONAI does it: the same values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, NormalizeIntensityd

from tests.integration.engine.bundles import blobs, describe, write_bundle
from tests.integration.engine.cards import Hungry, hungry_network
from worker.adapters.engine_monai import MonaiEngine
from worker.adapters.engine_monai.engine import _limits
from worker.adapters.engine_monai.fast_steps import NonzeroNormalizer, speed_up
from worker.adapters.engine_monai.one_window import is_one_plain_window, run_one_window
from worker.adapters.engine_monai.running import is_finite
from worker.adapters.engine_monai.volume import to_data
from worker.core.errors import SeriesInvalid

SHAPE = (23, 31, 18)


def head(*, mean: float = 400.0, spread: float = 60.0) -> torch.Tensor:
    image = mean + spread * torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    image[:, :6] = 0
    image[:, :, 27:] = 0
    return image


@pytest.mark.parametrize(
    ("image", "tolerance"),
    [
        (head(), 1e-6),
        (head(mean=-20.0, spread=3.0), 1e-5),
        (head(mean=3_000.0, spread=20.0), 1e-4),  # float32 holds no more of the difference
        (head() * torch.tensor([1.0, 0.0, 1e-3])[:, None, None, None], 1e-6),
    ],
    ids=["usual", "negative", "far from zero", "an empty channel"],
)
def test_normalising_gives_what_monai_gives(image: torch.Tensor, tolerance: float) -> None:
    step = NormalizeIntensityd(keys="image", nonzero=True, channel_wise=True)
    expected = Compose([step])({"image": MetaTensor(image.clone())})["image"]
    ours = Compose([Compose([NormalizeIntensityd(keys="image", nonzero=True, channel_wise=True)])])
    speed_up(ours)
    found = ours({"image": MetaTensor(image.clone(), meta={"kept": 1})})["image"]
    assert isinstance(ours.transforms[0].transforms[0].normalizer, NonzeroNormalizer)
    assert found.meta["kept"] == 1
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor(), atol=tolerance, rtol=1e-5)


def test_what_rounding_leaves_of_a_constant_is_not_blown_up() -> None:
    image = head(mean=7.3, spread=0.0)
    step = NormalizeIntensityd(keys="image", nonzero=True, channel_wise=True)
    speed_up(step)
    assert float(step({"image": image})["image"].abs().max()) < 1e-5


@pytest.mark.parametrize(
    "options", [{"nonzero": False}, {"channel_wise": False}, {"subtrahend": [1.0, 1.0, 1.0]}]
)
def test_other_ways_of_normalising_are_monais(options: dict[str, object]) -> None:
    given = {"nonzero": True, "channel_wise": True, **options}
    step = NormalizeIntensityd(keys="image", **given)
    speed_up(Compose([step]))
    assert not isinstance(step.normalizer, NonzeroNormalizer)


@pytest.mark.parametrize("shape", [(32, 32, 16), (31, 20, 9), (8, 5, 16)])
@pytest.mark.parametrize(
    ("mode", "padding", "cval"),
    [("constant", "constant", 0.0), ("gaussian", "constant", -1.5), ("constant", "replicate", 0.0)],
)
def test_one_window_gives_what_the_sliding_window_gives(
    shape: tuple[int, int, int], mode: str, padding: str, cval: float
) -> None:
    inferer = SlidingWindowInferer((32, 32, 16), mode=mode, padding_mode=padding, cval=cval)
    network = torch.nn.Conv3d(2, 3, 3, padding=1)
    batch = torch.rand(1, 2, *shape)
    assert is_one_plain_window(inferer, shape)
    with torch.inference_mode():
        expected = inferer(batch, network)
        found = run_one_window(inferer, batch, lambda given: [network(given)])
    torch.testing.assert_close(found, expected, atol=0 if mode == "constant" else 1e-5, rtol=1e-5)


def test_several_windows_and_other_inferers_are_monais() -> None:
    class Own(SlidingWindowInferer):
        pass

    assert not is_one_plain_window(SlidingWindowInferer((32, 32, 16)), (33, 32, 16))
    assert not is_one_plain_window(Own((32, 32, 16)), (32, 32, 16))
    assert not is_one_plain_window(SlidingWindowInferer(32, with_coord=True), (32, 32, 16))


def test_network_that_gives_another_size_is_left_to_monai() -> None:
    found = run_one_window(
        SlidingWindowInferer((8, 8, 8)), torch.rand(1, 1, 8, 8, 8), lambda given: given[..., ::2]
    )
    assert found is None


def test_a_sum_that_overflows_is_no_value_that_is_not_finite() -> None:
    assert is_finite(torch.full((4,), 3e38))
    assert not is_finite(torch.tensor([1.0, float("nan")]))
    assert not is_finite(torch.tensor([float("inf"), -float("inf")]))


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
@pytest.mark.parametrize("view", [lambda a: a, lambda a: a[:, ::-1]], ids=["plain", "reversed"])
def test_values_that_are_not_finite_are_found_however_the_array_lies(
    tmp_path: Path, spoilt: float, view: object
) -> None:
    entry = describe(write_bundle(tmp_path / "b", network=hungry_network()))
    image = blobs()
    image[1, 3, 3, 3] = spoilt
    with pytest.raises(SeriesInvalid) as caught:
        MonaiEngine("cpu").segment(entry, view(image), np.eye(4), lambda _: None)
    assert caught.value.code == "not_finite"
    Hungry.seen.clear()


def _arrays() -> dict[str, npt.NDArray[Any]]:
    given = np.random.default_rng(0).random((2, 5, 4, 3), dtype=np.float32)
    frozen = given.copy()
    frozen.flags.writeable = False
    return {
        "as slices lie in files": given.copy().transpose(0, 3, 2, 1),
        "as MONAI has it": given,
        "a part of another": given.transpose(0, 3, 2, 1)[:, 1:],
        "flipped": given[:, ::-1, :, ::-1],
        "read only": frozen,
        "float64": given.astype(np.float64),
    }


@pytest.mark.parametrize("kind", list(_arrays()))
def test_a_model_gets_a_copy_of_its_own_in_monais_order(kind: str) -> None:
    given = _arrays()[kind]
    before = given.copy()
    (image,) = (
        value for value in to_data(given, np.eye(4), ("image",)).values() if torch.is_tensor(value)
    )
    assert image.is_contiguous()
    np.testing.assert_array_equal(image.numpy(), before.astype(np.float32))
    image += 1
    np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize("kind", list(_arrays()))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_seen_however_the_image_lies(
    kind: str, value: float
) -> None:
    given = _arrays()[kind].copy(order="K")
    assert _limits(given[1]) == (given[1].min(), given[1].max())
    given[1, 1, 2, 1] = value
    assert not np.all(np.isfinite(_limits(given[1])))

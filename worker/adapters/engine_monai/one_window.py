"""A volume that fits into one window of a sliding window: there is nothing to blend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer

from worker.adapters.engine_monai import windows
from worker.adapters.engine_monai.steps import single_output


def is_one_plain_window(inferer: Any, shape: tuple[int, ...]) -> bool:
    """Whether MONAI's own sliding window would call the network once, with nothing of its own."""
    return (
        type(inferer) is SlidingWindowInferer
        and not inferer.with_coord
        and windows.count_windows(inferer, shape) == 1
    )


def run_one_window(
    inferer: Any, batch: torch.Tensor, network: Callable[[torch.Tensor], Any]
) -> torch.Tensor | None:
    """Pad, run and crop as `sliding_window_inference` does, without weighing and dividing again.

    Parameters
    ----------
    inferer : SlidingWindowInferer
    batch : (1, C, I, J, K) tensor

    Returns
    -------
    (1, C', I, J, K) tensor or None
        None where the network gives another size than it gets: how that is cropped is MONAI's.
    """
    shape = tuple(int(size) for size in batch.shape[2:])
    window = windows.window_of(inferer, shape)
    missing = [max(side - size, 0) for side, size in zip(window, shape, strict=True)]
    before = [gap // 2 for gap in missing]
    if any(missing):
        pads = zip(reversed(before), reversed(missing), strict=True)
        padding = [side for half, gap in pads for side in (half, gap - half)]
        # Every mode but the constant one takes no value.
        mode = str(getattr(inferer.padding_mode, "value", inferer.padding_mode))
        value = inferer.cval if mode == "constant" else None
        batch = torch.nn.functional.pad(batch, padding, mode=mode, value=value)
    output = single_output(network(batch))
    if output.shape[2:] != batch.shape[2:]:
        return None
    inside = tuple(slice(start, start + size) for start, size in zip(before, shape, strict=True))
    return output[(slice(None), slice(None), *inside)]

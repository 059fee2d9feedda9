"""How much of the network's work is done, counted from outside by forward hooks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


@contextmanager
def counted(
    network: torch.nn.Module, total_windows: int, on_progress: Callable[[float], None]
) -> Iterator[None]:
    """Report 0 to 1 while a network runs `total_windows` times.

    Layers count too, so that a network that takes minutes for one whole volume is seen to move.
    """
    counter = _Counter(network, total_windows, on_progress)
    on_progress(0.0)
    with ExitStack() as hooks:
        for layer in _layers(network):
            hooks.callback(layer.register_forward_hook(counter.count_layer).remove)
        hooks.callback(network.register_forward_hook(counter.count_window).remove)
        yield
    on_progress(1.0)


def _layers(network: torch.nn.Module) -> list[torch.nn.Module]:
    return [
        module
        for module in network.modules()
        if module is not network
        and not isinstance(module, torch.jit.ScriptModule)  # takes no hooks
        and next(module.children(), None) is None
    ]


class _Counter:
    def __init__(
        self, network: torch.nn.Module, total_windows: int, on_progress: Callable[[float], None]
    ) -> None:
        self._on_progress = on_progress
        self._total_windows = max(total_windows, 1)
        self._windows = 0
        self._layers = 0
        # A first guess: shared layers run more often. The first window tells.
        self._layers_per_window = max(len(_layers(network)), 1)

    def count_layer(self, *_: Any) -> None:
        self._layers += 1
        self._report(min(self._layers / self._layers_per_window, 1.0))

    def count_window(self, *_: Any) -> None:
        self._windows += 1
        self._layers_per_window = max(self._layers, 1)
        self._layers = 0
        self._report(0.0)

    def _report(self, share_of_window: float) -> None:
        self._on_progress(min((self._windows + share_of_window) / self._total_windows, 1.0))


def count_windows(inferer: Any, shape: Sequence[int]) -> int:
    """Count the network's calls for one volume.

    Parameters
    ----------
    inferer : monai.inferers.Inferer
        One with `roi_size`, `overlap` and `sw_batch_size` slides a window; others call once.
    shape : sequence of int
        Of the volume, without channels.
    """
    roi_size = getattr(inferer, "roi_size", None)
    if roi_size is None:
        return 1
    rois = _per_axis(roi_size, len(shape))
    overlaps = _per_axis(getattr(inferer, "overlap", 0.25), len(shape))
    windows = 1
    for size, roi, overlap in zip(shape, rois, overlaps, strict=True):
        windows *= _windows_along(size, roi, overlap)
    batch = getattr(inferer, "sw_batch_size", 1)
    return math.ceil(windows / max(int(batch), 1))


def _per_axis(value: Any, axes: int) -> tuple[Any, ...]:
    if isinstance(value, Sequence):
        return tuple(value)
    return (value,) * axes


def _windows_along(size: int, roi: int | None, overlap: float) -> int:
    if roi is None or roi <= 0 or size <= roi:
        return 1
    step = max(int(roi * (1 - overlap)), 1)  # as MONAI's sliding_window_inference steps
    return math.ceil((size - roi) / step) + 1

"""What a network's arithmetic and memory traffic would take at least, beside what it took."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from worker.adapters.engine_monai import windows
from worker.adapters.engine_monai.device import Device
from worker.adapters.engine_monai.parts import Parts
from worker.model_memory import Mode

_DTYPES = {"float32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_RUNS = 5


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one volume takes.

    Parameters
    ----------
    flops : int
        Floating point operations, as torch counts them (a multiplication and an addition are two).
    values : int
        Numbers that every layer reads (its input, its weights) and writes (its output), once each:
        more than a compiler that joins layers needs, less than one that computes in pieces.
    """

    flops: int
    values: int


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """A device's two ceilings, measured on it, and where a run lies below them.

    Parameters
    ----------
    flops_per_s : float
        Of a large matrix multiplication in the run's precision.
    bytes_per_s : float
        Read and written by a large copy.
    least_s : float
        What the work would take at the lower of the two.
    share : float
        `least_s` of the time that it took.
    """

    flops_per_s: float
    bytes_per_s: float
    least_s: float
    share: float


def count_work(parts: Parts, image: torch.Tensor, mode: Mode, device: Device) -> Work:
    """Run the network on one empty window, and count.

    Parameters
    ----------
    image : (C, I, J, K) tensor
        The network's input.
    mode : Mode
        Which windows it is run on.
    """
    shape = tuple(int(size) for size in image.shape[1:])
    inferer = windows.inferer_for(mode, parts.inferer, shape)
    is_sliding = windows.slides(inferer)
    window = windows.window_of(inferer, shape) if is_sliding else shape
    times = windows.count_windows(inferer, shape) if is_sliding else 1
    given = torch.zeros(1, image.shape[0], *window, device=device.torch)
    with (
        torch.inference_mode(),
        _traffic(parts.network) as values,
        FlopCounterMode(display=False) as counter,
    ):
        parts.network(given)
    return Work(flops=int(counter.get_total_flops()) * times, values=sum(values) * times)


def roofline(work: Work, seconds: float, precision: str, device: Device) -> Roofline:
    """Measure the device's ceilings, and compare."""
    dtype = _DTYPES[precision]
    flops_per_s = _matrix_speed(device, dtype)
    bytes_per_s = _copy_speed(device)
    least_s = max(work.flops / flops_per_s, work.values * dtype.itemsize / bytes_per_s)
    return Roofline(
        flops_per_s=flops_per_s,
        bytes_per_s=bytes_per_s,
        least_s=least_s,
        share=least_s / seconds,
    )


@contextmanager
def _traffic(network: torch.nn.Module) -> Iterator[list[int]]:
    """Collect the numbers that layers read and write."""
    values: list[int] = []

    def count(layer: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        tensors = [*inputs, output, *layer.parameters(recurse=False)]
        values.append(sum(t.numel() for t in tensors if isinstance(t, torch.Tensor)))

    hooks = [
        layer.register_forward_hook(count)
        for layer in network.modules()
        if next(layer.children(), None) is None and not isinstance(layer, torch.jit.ScriptModule)
    ]
    try:
        yield values
    finally:
        for hook in hooks:
            hook.remove()


def _matrix_speed(device: Device, dtype: torch.dtype) -> float:
    side = 8192 if device.torch.type == "cuda" else 1024
    one = torch.rand(side, side, device=device.torch, dtype=dtype)
    return 2 * side**3 / _least_s(device, lambda: one @ one)


def _copy_speed(device: Device) -> float:
    count = 2**28 if device.torch.type == "cuda" else 2**24
    source = torch.zeros(count, device=device.torch)
    target = torch.empty_like(source)
    return 2 * 4 * count / _least_s(device, lambda: target.copy_(source))


def _least_s(device: Device, do: Callable[[], object]) -> float:
    """Give the shortest of some runs: a ceiling is what is reached when nothing disturbs."""
    do()
    seconds = []
    for _ in range(_RUNS):
        began = device.now()
        do()
        seconds.append(device.now() - began)
    return min(seconds)

"""A GPU's ways on the CPU: memory that runs out, half precision, other layouts."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import torch

from worker.adapters.engine_monai.device import Device


class Card(Device):
    """Says that it is a card, and has as much memory as it is told."""

    def __init__(self, *, free_bytes: int = 10**9, name: str = "Test card, 1.0 GiB") -> None:
        super().__init__(torch.device("cpu"))
        self._free_bytes = free_bytes
        self._name = name
        self.window_bytes = 10**9
        self.released = 0

    @property
    def is_card(self) -> bool:
        return True

    @property
    def name(self) -> str:
        return self._name

    def free_bytes(self) -> int:
        return self._free_bytes

    def used_bytes(self) -> int:
        return 0

    def reset_peak(self) -> None:
        return

    def peak_bytes(self) -> int:
        return self.window_bytes

    def now(self) -> float:
        return time.perf_counter()

    def release(self, *, is_thorough: bool = False) -> None:
        self.released += 1


class Hungry(torch.nn.Conv3d):
    """A convolution that runs out of memory above a number of input values."""

    limit: ClassVar[float] = float("inf")
    error: ClassVar[Exception] = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
    seen: ClassVar[list[tuple[int, ...]]] = []
    channels_last: ClassVar[list[bool]] = []

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        Hungry.seen.append(tuple(given.shape))
        is_last = given.is_contiguous(memory_format=torch.channels_last_3d)
        Hungry.channels_last.append(is_last and not given.is_contiguous())
        if given.numel() > Hungry.limit:
            raise Hungry.error
        return super().forward(given)


def hungry_network(channels: int = 3, kernel: int = 1) -> dict[str, Any]:
    """Give the configuration of one, for `write_bundle`."""
    return {
        "_target_": f"{Hungry.__module__}.Hungry",
        "in_channels": channels,
        "out_channels": channels,
        "kernel_size": kernel,
    }

"""The device that networks run on: its name, its memory, and what to do when that runs out."""

from __future__ import annotations

import gc
import platform
import time

import psutil
import torch

from worker.adapters import memory
from worker.adapters.freed_arrays import give_back_freed
from worker.core.errors import SettingsError

_GIB = 2**30


def choose_device(wanted: str) -> torch.device:
    """Turn DEVICE (auto, cpu, cuda, cuda:N) into a device that exists.

    Raises
    ------
    SettingsError
        CUDA was asked for, and torch finds no such device.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return torch.device("cuda:0" if count else "cpu")
    device = torch.device("cuda:0" if wanted == "cuda" else wanted)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise SettingsError(
            f"DEVICE: {wanted}, but torch {torch.__version__} finds {count} CUDA devices: install "
            "a torch build for CUDA and NVIDIA's driver, or set DEVICE=cpu."
        )
    return device


class Device:
    """A CPU or a CUDA card.

    Parameters
    ----------
    device : torch.device
        One that exists.
    """

    def __init__(self, device: torch.device) -> None:
        self.torch = device

    @property
    def is_card(self) -> bool:
        """Whether it is a GPU: with memory of its own, half precision and other layouts."""
        return self.torch.type == "cuda"

    @property
    def name(self) -> str:
        """Name and total memory: what was learned on one such device holds for another."""
        if self.is_card:
            properties = torch.cuda.get_device_properties(self.torch)
            return f"{properties.name}, {properties.total_memory / _GIB:.1f} GiB"
        total = psutil.virtual_memory().total / _GIB
        return f"CPU {platform.machine()}, {total:.1f} GiB"

    def free_bytes(self) -> int:
        """Give the memory that a new tensor could have, what torch keeps in reserve included."""
        if not self.is_card:
            return int(psutil.virtual_memory().available)
        free, _ = torch.cuda.mem_get_info(self.torch)
        reserved = torch.cuda.memory_reserved(self.torch)
        return int(free + reserved - torch.cuda.memory_allocated(self.torch))

    def reset_peak(self) -> None:
        """Start counting the peak of memory anew."""
        if self.is_card:
            torch.cuda.reset_peak_memory_stats(self.torch)
        else:
            memory.reset_peak()

    def peak_bytes(self) -> int:
        """Give the most memory in use since `reset_peak`: tensors of a card, all of a process."""
        if self.is_card:
            return int(torch.cuda.max_memory_allocated(self.torch))
        return memory.peak_bytes()

    def used_bytes(self) -> int:
        """Give the memory in use now, counted as `peak_bytes` counts it."""
        if self.is_card:
            return int(torch.cuda.memory_allocated(self.torch))
        return int(psutil.Process().memory_info().rss)

    def release(self, *, is_thorough: bool = False) -> None:
        """Give memory back that nothing holds any more, after a failure.

        Parameters
        ----------
        is_thorough : bool
            Look through all objects for circles that hold tensors, which takes a second, and not
            only through those that were just made.
        """
        gc.collect(2 if is_thorough else 1)
        give_back_freed()
        if not self.is_card:
            return
        try:
            torch.cuda.empty_cache()
        except RuntimeError:
            return  # after a device fault every CUDA call fails; the first error says why

    def share(self) -> None:
        """Give memory that no tensor uses back to the card, for other processes to take."""
        if self.is_card:
            torch.cuda.empty_cache()

    def now(self) -> float:
        """Give the seconds of a clock, once all work given to the device is done."""
        if self.is_card:
            torch.cuda.synchronize(self.torch)
        return time.perf_counter()

"""How busy a GPU is, asked of its driver while something runs."""

from __future__ import annotations

import statistics
import threading
from importlib.util import find_spec

import torch

from worker.adapters.engine_monai.device import Device

# The driver itself averages over a sixth of a second or more.
_INTERVAL_S = 0.05


class Utilisation:
    """Asks from a thread of its own, as long as the context lasts.

    Parameters
    ----------
    device : Device
        A CPU has no such figure, and a GPU none without the package pynvml.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._found: list[float] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def mean(self) -> float | None:
        """The mean share of time, 0 to 1; None where nobody can tell."""
        return statistics.mean(self._found) if self._found else None

    def __enter__(self) -> Utilisation:
        if self._device.is_card and find_spec("pynvml") is not None:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while True:
            try:
                self._found.append(self._ask())
            except Exception:
                return  # a driver that can't say is no reason to fail
            if self._stop.wait(_INTERVAL_S):
                return

    def _ask(self) -> float:
        return torch.cuda.utilization(self._device.torch) / 100

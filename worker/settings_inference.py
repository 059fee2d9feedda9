"""How the network runs: ``inference`` of ``config.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.settings_reader import as_devices, as_number

if TYPE_CHECKING:
    from worker.settings import Environment
    from worker.settings_reader import Section

AUTO = "auto"
# Measured by benchmarks.throughput: reading, the network and writing each have a process busy.
PROCESSES_ON_GPU = 3
# On a CPU the network takes every core, and a second copy of it only takes memory.
PROCESSES_ON_CPU = 1
MOST_PROCESSES = 8

_EXPECTED = "auto, cpu, cuda or cuda:N, or several of them: cuda:0,cuda:1"


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """How the network runs. `threshold` None leaves each model its own; durations in seconds.

    Parameters
    ----------
    devices : tuple of str
        In the words of the settings; ``auto`` stands alone.
    processes : int, optional
        Inference processes for each device; None chooses by the device.
    """

    devices: tuple[str, ...]
    threshold: float | None
    stall_s: float
    start_timeout_s: float
    is_warm_at_start: bool
    processes: int | None = None

    @property
    def device(self) -> str:
        """The first device."""
        return self.devices[0]

    def processes_on(self, device: str) -> int:
        """Give how many processes share a device, named in torch's words."""
        if self.processes is not None:
            return self.processes
        return PROCESSES_ON_GPU if device.startswith("cuda") else PROCESSES_ON_CPU


def read_inference(section: Section, env: Environment) -> InferenceSettings:
    """Read ``inference``, with DEVICE and THRESHOLD of the environment over it."""
    threshold = section.parsed("threshold", None, as_number(0, 1), "a number > 0 and <= 1")
    settings = InferenceSettings(
        devices=_devices(section, env),
        threshold=env.number("THRESHOLD", threshold, most=1),
        stall_s=section.number("stall_s", 600),
        start_timeout_s=section.number("start_timeout_s", 180),
        is_warm_at_start=section.flag("warm_at_start", True),
        processes=section.parsed("processes", None, _as_processes, f"1 to {MOST_PROCESSES}"),
    )
    section.end()
    return settings


def _devices(section: Section, env: Environment) -> tuple[str, ...]:
    default: tuple[str, ...] = (AUTO,)
    written = section.parsed("device", default, as_devices, _EXPECTED)
    text = env.text("DEVICE")
    if text is None:
        return written
    devices = as_devices(text)
    if devices is None:
        env.problems.add("DEVICE", _EXPECTED, text)
    return devices or written


def _as_processes(value: object) -> int | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if isinstance(value, int) and is_whole and 1 <= value <= MOST_PROCESSES else None

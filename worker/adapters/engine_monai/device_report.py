"""What torch finds of the device: its memory, and whether torch and the driver go together."""

from __future__ import annotations

from typing import Any

import torch


def report_device(name: str) -> dict[str, Any]:
    """Describe the device for the parent process, which has no torch.

    Parameters
    ----------
    name : str
        In torch's words, such as ``cuda:0`` or ``cpu``.

    Returns
    -------
    dict
        ``torch`` and ``cuda`` (the version torch is built for, None for a CPU build) as texts,
        ``driver_cuda`` (the newest CUDA that the installed driver knows; None without a driver),
        ``memory`` in bytes for a CUDA device: ``total`` and ``free``; ``devices``: how many of its
        kind there are.
    """
    memory: dict[str, int] = {}
    device = torch.device(name)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        memory = {"total": total, "free": free}
    return {
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "driver_cuda": _driver_cuda(),
        "memory": memory,
        "devices": torch.cuda.device_count() if device.type == "cuda" else 1,
    }


def _driver_cuda() -> str | None:
    ask = getattr(torch._C, "_cuda_getDriverVersion", None)  # torch has no public call for it
    number = int(ask()) if ask is not None else 0
    return f"{number // 1000}.{number % 1000 // 10}" if number else None

"""One loaded network in the layouts and forms that modes ask for."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch

from worker.adapters.engine_monai.device import Device
from worker.model_memory import Mode

logger = logging.getLogger(__name__)

_DTYPES: Mapping[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
_FORMATS: Mapping[str, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels_last_3d": torch.channels_last_3d,
}


def compile_problem(device: Device) -> str | None:
    """Say why ``torch.compile`` can't work here; None where it can."""
    if device.is_card and find_spec("triton") is None:
        return "torch.compile needs the package triton for a GPU, which is not installed"
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        return "torch.compile needs a C++ compiler, which is not installed"
    return None


class Networks:
    """A network, and its compiled form once that was asked for.

    Used by one thread, that of inference: the layout of the weights is changed in place.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode, on the device.
    device : Device
    backend : str
        Of ``torch.compile``.
    """

    def __init__(
        self, network: torch.nn.Module, device: Device, *, backend: str = "inductor"
    ) -> None:
        self._network = network
        self._device = device
        self._backend = backend
        self._compiled: torch.nn.Module | None = None
        self._layout = "contiguous"

    def allowed(self, mode: Mode) -> Mode:
        """Take out of a mode what this device or network can't do, or does wrongly."""
        changed: dict[str, Any] = {}
        if not self._device.is_card:
            # On the CPU GroupNorm in channels_last_3d is wrong on large volumes, and half
            # precision is no faster.
            changed |= {"precision": "float32", "layout": "contiguous", "stitching": "device"}
        if self._is_fixed():
            changed |= {"layout": "contiguous", "is_compiled": False}
        if mode.is_compiled and compile_problem(self._device) is not None:
            changed["is_compiled"] = False
        return replace(mode, **changed)

    def _is_fixed(self) -> bool:
        # A TorchScript or exported program was made for one layout and is no source to compile.
        return any(
            isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule))
            for module in self._network.modules()
        )

    @contextmanager
    def running(self, mode: Mode) -> Iterator[torch.nn.Module]:
        """Give the network in the form that a mode names, while it is used."""
        self._set_layout(mode.layout)
        network = self._compile() if mode.is_compiled else self._network
        with ExitStack() as stack:
            if mode.layout != "contiguous":
                stack.callback(network.register_forward_pre_hook(_channels_last).remove)
            stack.enter_context(self._precision(mode.precision))
            yield network

    def _set_layout(self, layout: str) -> None:
        if layout != self._layout:
            self._network.to(memory_format=_FORMATS[layout])  # type: ignore[call-overload]
            self._layout = layout

    def _compile(self) -> torch.nn.Module:
        if self._compiled is None:
            logger.info("network_is_compiled", extra={"backend": self._backend})
            self._compiled = _Compiled(torch.compile(self._network, backend=self._backend))
        return self._compiled

    def _precision(self, precision: str) -> AbstractContextManager[Any]:
        dtype = _DTYPES.get(precision)
        if dtype is None:
            return nullcontext()
        return torch.autocast(self._device.torch.type, dtype=dtype)


def _channels_last(_network: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        value.contiguous(memory_format=torch.channels_last_3d)
        if isinstance(value, torch.Tensor) and value.ndim == 5
        else value
        for value in inputs
    )


class _Compiled(torch.nn.Module):
    """A compiled network with hooks around it that are not compiled."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self._run = network

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self._run(*inputs)

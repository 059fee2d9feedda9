"""How much of the network's work is done, counted from outside by forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


@contextmanager
def counted(
    network: torch.nn.Module,
    total_calls: int,
    on_progress: Callable[[float], None],
    *,
    has_layers: bool = True,
) -> Iterator[None]:
    """Report 0 to 1 while a network runs `total_calls` times.

    Layers count too, so that a network that takes minutes for one whole volume is seen to move;
    not those of a compiled network, which would be compiled anew for each new hook.
    """
    counter = _Counter(network, total_calls, on_progress)
    on_progress(0.0)
    with ExitStack() as hooks:
        for layer in _layers(network) if has_layers else ():
            hooks.callback(layer.register_forward_hook(counter.count_layer).remove)
        hooks.callback(network.register_forward_hook(counter.count_call).remove)
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
        self, network: torch.nn.Module, total_calls: int, on_progress: Callable[[float], None]
    ) -> None:
        self._on_progress = on_progress
        self._total_calls = max(total_calls, 1)
        self._calls = 0
        self._layers = 0
        # A first guess: shared layers run more often. The first call tells.
        self._layers_per_call = max(len(_layers(network)), 1)

    def count_layer(self, *_: Any) -> None:
        self._layers += 1
        self._report(min(self._layers / self._layers_per_call, 1.0))

    def count_call(self, *_: Any) -> None:
        self._calls += 1
        self._layers_per_call = max(self._layers, 1)
        self._layers = 0
        self._report(0.0)

    def _report(self, share_of_call: float) -> None:
        self._on_progress(min((self._calls + share_of_call) / self._total_calls, 1.0))

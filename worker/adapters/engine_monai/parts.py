"""What every loaded model comes down to: a network and what is done before and after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Data = dict[str, Any]
Transform = Callable[[Data], Data]

PREDICTION_KEY = "pred"  # SupervisedEvaluator's name for it, which every bundle's own steps use
IMAGE_KEY = "image"  # and for the network's input


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A model in memory.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode, on the engine's device.
    preprocessing, postprocessing : callable
        Dictionary transforms, without reading from or writing to files.
    inferer : callable
        Called as ``inferer(inputs=(1, C, I, J, K), network=network)``.
    image_keys : tuple of str
        One key that takes all channels, or one for each channel in order.
    input_key : str
        Where preprocessing leaves the network's input, when not under ``image``.
    is_mixed_precision : bool
        Whether the model was made for it; it takes effect on CUDA only.
    is_trained : bool
        False when the weights are random.
    """

    network: torch.nn.Module
    preprocessing: Transform
    inferer: Callable[..., Any]
    postprocessing: Transform
    image_keys: tuple[str, ...] = (IMAGE_KEY,)
    input_key: str = IMAGE_KEY
    is_mixed_precision: bool = False
    is_trained: bool = True


def network_input(parts: Parts, data: Mapping[str, Any]) -> torch.Tensor | None:
    """Give what preprocessing made for the network: ``image`` as the evaluator takes it."""
    for key in (IMAGE_KEY, parts.input_key):
        if isinstance(data.get(key), torch.Tensor):
            image: torch.Tensor = data[key]
            return image
    return None

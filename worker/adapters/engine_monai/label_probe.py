"""Finds out which label values a model can give, by asking its own postprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch

from worker.adapters.engine_monai.engine import MonaiEngine
from worker.adapters.engine_monai.faults import mapped_faults
from worker.adapters.engine_monai.labels import found_values
from worker.adapters.engine_monai.parts import Data, Parts
from worker.adapters.engine_monai.steps import postprocess, prepare, prepared_image
from worker.catalogue import ModelEntry, is_background

Combination = tuple[bool, ...]

# All combinations of more channels than this would not fit into the smallest image.
_MOST_COMBINED = 6
_LOGIT = 20.0  # far enough from 0 for sigmoid and softmax to be 0 or 1
_CELL = 8  # voxels along a side: survives resampling and the removal of small components
_SIZE = 64  # of the made-up image: 8 x 8 cells, one for each combination of six channels


def labels_it_gives(entry: ModelEntry) -> dict[int, str]:
    """Give the label values of a bundle, each with the best name known.

    The model is loaded, so that what can't run is found here, but the network's output is made
    up: a pattern of every combination of its channels goes through the postprocessing. Values
    such as the BraTS bundle's 1, 2 and 4 are written nowhere else.

    Raises
    ------
    ModelInvalid
        The model can't be loaded, or its steps fail.
    """
    parts = MonaiEngine("cpu").parts(entry)
    if entry.format != "bundle" or not entry.output_channels:
        return {}
    with torch.inference_mode(), mapped_faults("trying out its steps", torch.device("cpu")):
        return _probe(entry, parts)


def _probe(entry: ModelEntry, parts: Parts) -> dict[int, str]:
    generator = np.random.default_rng(0)
    image = generator.random((len(entry.channels), _SIZE, _SIZE, _SIZE), dtype=np.float32)
    data = prepare(parts, image, np.eye(4))
    outputs = len(entry.output_channels)
    prediction = _apply(parts, data, _combinations(outputs))
    if prediction.shape[0] > 1:
        regions = [name for name in entry.output_channels if not is_background(name)]
        return {} if entry.segments else dict(enumerate(regions, start=1))
    values = found_values(prediction)
    if entry.has_background_channel:
        names = dict(enumerate(entry.output_channels))
    else:
        names = _names_by_channel(entry, parts, data)
    return {value: names.get(value, f"label {value}") for value in sorted(values)}


def _names_by_channel(entry: ModelEntry, parts: Parts, data: Data) -> dict[int, str]:
    """Name each value after the channel that alone gives it."""
    names = {}
    for channel, name in enumerate(entry.output_channels):
        alone = tuple(index == channel for index in range(len(entry.output_channels)))
        for value in found_values(_apply(parts, data, [alone])):
            names[value] = name
    return names


def _apply(parts: Parts, data: Data, combinations: Sequence[Combination]) -> torch.Tensor:
    shape = tuple(prepared_image(parts, data).shape[1:])
    return postprocess(parts, data, _pattern(combinations, shape))


def _combinations(outputs: int) -> list[Combination]:
    if outputs <= _MOST_COMBINED:
        return list(product((False, True), repeat=outputs))
    return [tuple(index == chosen for index in range(outputs)) for chosen in range(outputs)]


def _pattern(combinations: Sequence[Combination], shape: tuple[int, ...]) -> torch.Tensor:
    """Make (C, I, J, K) logits of cells, one combination each, repeated over the volume.

    Repeated, since padding may leave only some part of the network's grid in the image.
    """
    cell = _CELL if len(combinations) <= (_SIZE // _CELL) ** 2 else _CELL // 2
    columns, rows = (torch.arange(size) // cell for size in shape[:2])
    index = (columns[:, None] + rows[None, :] * (_SIZE // cell)) % len(combinations)
    values = torch.tensor(combinations, dtype=torch.float32) * 2 * _LOGIT - _LOGIT
    flat = values[index].permute(2, 0, 1)
    return flat[..., None].expand(-1, -1, -1, shape[2]).clone()

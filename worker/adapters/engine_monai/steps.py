"""What is done before and after the network, by the model's own transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor

from worker.adapters.engine_monai.parts import PREDICTION_KEY, Data, Parts, network_input
from worker.adapters.engine_monai.volume import to_data
from worker.core.errors import ModelInvalid

FloatArray = npt.NDArray[np.floating[Any]]


def prepare(parts: Parts, channels: FloatArray, affine_ras: FloatArray) -> Data:
    """Apply a model's preprocessing.

    Parameters
    ----------
    parts : Parts
    channels : (C, I, J, K) float32
    affine_ras : (4, 4)
        Voxel index -> RAS, mm.
    """
    data = parts.preprocessing(to_data(channels, affine_ras, parts.image_keys))
    if not isinstance(data, dict) or network_input(parts, data) is None:
        raise ModelInvalid("The model's preprocessing gives no single image for the network.")
    return data


def prepared_image(parts: Parts, data: Data) -> torch.Tensor:
    """Give the (C, I', J', K') image that the network takes."""
    image = network_input(parts, data)
    if image is None or image.ndim != 4:
        raise ModelInvalid("The model's preprocessing doesn't give (channels, x, y, z).")
    return image


def postprocess(parts: Parts, data: Data, prediction: torch.Tensor) -> torch.Tensor:
    """Apply a model's postprocessing to the network's (C, I', J', K') output.

    Returns
    -------
    (C', I, J, K) tensor
        A MetaTensor that knows where it lies, unless the model's own code drops that.
    """
    image = network_input(parts, data)
    if isinstance(image, MetaTensor):
        # As the evaluator's own prediction has them: where it lies, and what Invertd undoes.
        prediction = MetaTensor(
            prediction, meta=dict(image.meta), applied_operations=image.applied_operations
        )
    result = parts.postprocessing({**data, PREDICTION_KEY: prediction})[PREDICTION_KEY]
    return result if isinstance(result, torch.Tensor) else torch.as_tensor(np.asarray(result))


def single_output(output: Any) -> torch.Tensor:
    """Give the full-size (1, C, ...) output of a network that may give several."""
    # Deep supervision and some exported programs give a sequence; the first is the full-size one.
    while isinstance(output, (list, tuple)) and output:
        output = output[0]
    if isinstance(output, dict) and len(output) == 1:
        output = next(iter(output.values()))
    if not isinstance(output, torch.Tensor):
        raise ModelInvalid(f"The network gave {type(output).__name__} where a tensor was expected.")
    return output

"""What is done before and after the network, by the model's own transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from worker.adapters.engine_monai.parts import PREDICTION_KEY, Data, Parts, network_input
from worker.adapters.engine_monai.volume import to_data
from worker.core.errors import ModelInvalid

FloatArray = npt.NDArray[np.floating[Any]]


# Transforms that do the same on a GPU: arithmetic on voxels, flips, interpolation. What is not
# named here (a bundle's own code, expressions, what goes through NumPy) runs on the host.
_SAME_ON_A_CARD = frozenset(
    name + suffix
    for name in (
        "CastToType",
        "ConcatItems",
        "CropForeground",
        "DivisiblePad",
        "EnsureType",
        "NormalizeIntensity",
        "Orientation",
        "ResizeWithPadOrCrop",
        "ScaleIntensity",
        "ScaleIntensityRange",
        "Spacing",
        "SpatialPad",
    )
    for suffix in ("", "d", "D", "Dict")
)


def is_same_on_a_card(transform: Any) -> bool:
    """Whether preprocessing may be done where the network runs: only by MONAI's own known steps."""
    if isinstance(transform, Compose):
        return all(is_same_on_a_card(inner) for inner in transform.transforms)
    kind = type(transform)
    return kind.__module__.startswith("monai.transforms.") and kind.__name__ in _SAME_ON_A_CARD


def prepare(
    parts: Parts,
    channels: FloatArray,
    affine_ras: FloatArray,
    device: torch.device | None = None,
) -> Data:
    """Apply a model's preprocessing.

    Parameters
    ----------
    parts : Parts
    channels : (C, I, J, K) float32
    affine_ras : (4, 4)
        Voxel index -> RAS, mm.
    device : torch.device, optional
        Where the transforms run; the host by default.
    """
    data = parts.preprocessing(to_data(channels, affine_ras, parts.image_keys, device))
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

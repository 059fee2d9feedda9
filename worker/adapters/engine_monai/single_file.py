"""Makes of a single-file model and its YAML what a bundle's configuration says."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    Invertd,
    NormalizeIntensityd,
    Orientationd,
    ScaleIntensityd,
    ScaleIntensityRangePercentilesd,
    Spacingd,
)

from worker.adapters.engine_monai.parts import IMAGE_KEY, PREDICTION_KEY, Parts, Transform
from worker.adapters.engine_monai.weights import load_exported, load_torchscript
from worker.catalogue import ModelEntry
from worker.core.errors import ModelInvalid
from worker.plain_model import PlainModel


def load_single_file(entry: ModelEntry, device: torch.device) -> Parts:
    """Load a single-file model and build its steps from its description."""
    plain = entry.plain
    if plain is None:
        raise ModelInvalid(f"The model {entry.name!r} has no description beside it.")
    load = load_torchscript if entry.format == "torchscript" else load_exported
    network = load(entry.path, device)
    if entry.format == "torchscript":
        network.eval()  # an exported program is fixed in the mode it was made in
    preprocessing = _preprocessing(plain)
    return Parts(
        network=network,
        preprocessing=preprocessing,
        inferer=_inferer(plain),
        postprocessing=_postprocessing(plain, preprocessing),
    )


def _preprocessing(plain: PlainModel) -> Transform:
    steps: list[Any] = [Orientationd(keys=IMAGE_KEY, axcodes=plain.orientation, labels=None)]
    if plain.spacing_mm is not None:
        steps.append(Spacingd(keys=IMAGE_KEY, pixdim=plain.spacing_mm, mode="bilinear"))
    steps += _normalisation(plain)
    compose: Transform = Compose(steps)
    return compose


def _normalisation(plain: PlainModel) -> list[Any]:
    if plain.normalisation in ("zscore", "zscore_nonzero"):
        is_nonzero = plain.normalisation == "zscore_nonzero"
        return [NormalizeIntensityd(keys=IMAGE_KEY, nonzero=is_nonzero, channel_wise=True)]
    if plain.normalisation == "percentiles":
        return [
            ScaleIntensityRangePercentilesd(
                keys=IMAGE_KEY, lower=1, upper=99, b_min=0, b_max=1, clip=True, channel_wise=True
            )
        ]
    if plain.normalisation == "minmax":
        return [ScaleIntensityd(keys=IMAGE_KEY, minv=0, maxv=1, channel_wise=True)]
    return []


def _inferer(plain: PlainModel) -> Any:
    if plain.roi_size is None:
        return SimpleInferer()
    return SlidingWindowInferer(
        roi_size=plain.roi_size, sw_batch_size=1, overlap=plain.overlap, mode="gaussian"
    )


def _postprocessing(plain: PlainModel, preprocessing: Transform) -> Transform:
    is_regions = plain.output == "sigmoid"
    # Probabilities, not labels, go back to the input's grid, so that edges stay smooth.
    compose: Transform = Compose(
        [
            Activationsd(keys=PREDICTION_KEY, sigmoid=is_regions, softmax=not is_regions),
            Invertd(
                keys=PREDICTION_KEY,
                transform=preprocessing,
                orig_keys=IMAGE_KEY,
                nearest_interp=False,
                to_tensor=True,
            ),
            AsDiscreted(keys=PREDICTION_KEY, threshold=plain.threshold)
            if is_regions
            else AsDiscreted(keys=PREDICTION_KEY, argmax=True),
        ]
    )
    return compose

"""Small bundles whose right answer is known: a 1 x 1 x 1 convolution that thresholds intensities.

Channel c of the output is on where channel c of the image exceeds 0.5, so a mask tells which series
fed which channel and where each voxel went.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worker.catalogue import ModelEntry, describe_model
from worker.core.segments import Code, SegmentSpec
from worker.settings_models import ModelSettings

LOAD = {"_target_": "LoadImaged", "keys": "@image_key", "image_only": False}
CHANNEL_FIRST = {"_target_": "EnsureChannelFirstd", "keys": "@image_key"}
ORIENTATION = {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "LIA"}
SPACING = {"_target_": "Spacingd", "keys": "@image_key", "pixdim": [1.0, 1.0, 1.0]}
SIGMOID = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
THRESHOLD = {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}
INVERT = {
    "_target_": "Invertd",
    "keys": "pred",
    "transform": "@preprocessing",
    "orig_keys": "@image_key",
    "meta_keys": "pred_meta_dict",
    "nearest_interp": False,
    "to_tensor": True,
}
BRATS_VALUES = {
    "_target_": "Lambdad",
    "keys": "pred",
    "func": "$lambda x: torch.where(x[[2]] > 0, 4, "
    "torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0)))",
}
SAVE = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "$@bundle_root + '/eval'"}
SLIDING = {
    "_target_": "SlidingWindowInferer",
    "roi_size": [16, 16, 16],
    "sw_batch_size": 1,
    "overlap": 0.5,
}


def compose(*steps: Any) -> dict[str, Any]:
    """Give the configuration of a Compose."""
    return {"_target_": "Compose", "transforms": list(steps)}


def thresholding_weights(channels: int) -> dict[str, torch.Tensor]:
    """Give weights with which output c is 40 * (channel c - 0.5)."""
    weight = torch.zeros(channels, channels, 1, 1, 1)
    for channel in range(channels):
        weight[channel, channel] = 40.0
    return {"weight": weight, "bias": torch.full((channels,), -20.0)}


def write_bundle(
    root: Path,
    *,
    channels: Sequence[str] = ("T1c", "T1", "T2"),
    outputs: Sequence[str] = ("core", "whole", "enhancing"),
    network: Mapping[str, Any] | None = None,
    preprocessing: Any = None,
    postprocessing: Any = None,
    inferer: Mapping[str, Any] | None = SLIDING,
    weights: Mapping[str, torch.Tensor] | None = None,
    has_weights: bool = True,
    **more: Any,
) -> Path:
    """Write a bundle as the model zoo publishes them, with files to load from and save to."""
    count = len(channels)
    config: dict[str, Any] = {
        "imports": ["$import os"],
        "bundle_root": ".",
        "image_key": "image",
        "data_list": "$[{'image': os.environ['NO_SUCH_VARIABLE']}]",
        "device": "$torch.device('cuda:7')",
        "network_def": network
        or {
            "_target_": "torch.nn.Conv3d",
            "in_channels": count,
            "out_channels": len(outputs),
            "kernel_size": 1,
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": preprocessing
        or compose(compose(LOAD, CHANNEL_FIRST), ORIENTATION, SPACING),
        "dataset": {"_target_": "Dataset", "data": "@data_list", "transform": "@preprocessing"},
        "postprocessing": postprocessing or compose(SIGMOID, INVERT, THRESHOLD, BRATS_VALUES, SAVE),
        "evaluator": {"_target_": "SupervisedEvaluator", "amp": True, "device": "@device"},
        "checkpointloader": {
            "_target_": "CheckpointLoader",
            "load_path": "$@bundle_root + '/models/model.pt'",
            "load_dict": {"model": "@network"},
        },
        "initialize": ["$1 / 0"],
        "run": ["$1 / 0"],
        **more,
    }
    if inferer is not None:
        config["inferer"] = inferer
    _write_json(root / "configs" / "inference.json", config)
    _write_json(root / "configs" / "metadata.json", _metadata(channels, outputs))
    if has_weights:
        (root / "models").mkdir()
        torch.save(dict(weights or thresholding_weights(count)), root / "models" / "model.pt")
    return root


def describe(
    path: Path, *, values: Sequence[int] = (1, 2, 4), name: str = "small", **options: Any
) -> ModelEntry:
    """Describe a model with made-up codes for the label values."""
    segments = tuple(segment(value) for value in values)
    return describe_model(ModelSettings(name=name, path=path, segments=segments, options=options))


def segment(value: int) -> SegmentSpec:
    """Give a segment with a made-up code."""
    code = Code(value=f"T{value}", scheme="99TEST", meaning=f"Test {value}")
    return SegmentSpec(label_value=value, label=f"Test {value}", category=code, type=code)


def blobs(shape: tuple[int, int, int] = (24, 20, 28)) -> np.ndarray:
    """Give a (3, I, J, K) image whose channels are on in different boxes, none symmetric."""
    image = np.zeros((3, *shape), dtype=np.float32)
    image[0, 2:9, 3:8, 4:15] = 1.0
    image[1, 1:14, 2:12, 3:20] = 1.0
    image[2, 4:7, 4:7, 6:11] = 1.0
    return image


def expected_labels(image: np.ndarray) -> np.ndarray:
    """Give the label map that `write_bundle`'s default makes of an image at 1 mm."""
    core, whole, enhancing = image > 0.5
    return np.where(enhancing, 4, np.where(core, 1, np.where(whole, 2, 0)))


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Give the Dice coefficient of two masks."""
    return float(2 * (one & other).sum() / max(int(one.sum() + other.sum()), 1))


def _metadata(channels: Sequence[str], outputs: Sequence[str]) -> dict[str, Any]:
    def named(names: Sequence[str]) -> dict[str, Any]:
        return {
            "num_channels": len(names),
            "channel_def": {str(index): name for index, name in enumerate(names)},
        }

    return {
        "version": "1.2.3",
        "intended_use": "Tests only",
        "network_data_format": {
            "inputs": {"image": named(channels)},
            "outputs": {"pred": named(outputs)},
        },
    }


def _write_json(path: Path, body: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body), encoding="utf-8")

"""From what a model's postprocessing leaves to the label values that have a code."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from worker.catalogue import ModelEntry
from worker.core.errors import ModelInvalid
from worker.core.segments import Labels


def to_labels(prediction: torch.Tensor, entry: ModelEntry) -> Labels:
    """Read a discrete prediction on the input's grid.

    Parameters
    ----------
    prediction : (C, I, J, K)
        One channel is a label map, whose values are kept; several are one region each, or one-hot
        classes when the first is the background.

    Raises
    ------
    ModelInvalid
        Not discrete, or a label that has no code.
    """
    discrete = _discrete(prediction)
    if discrete.shape[0] == 1:
        return _label_map(_array(discrete[0]), entry)
    if entry.has_background_channel and discrete.shape[0] == len(entry.output_channels):
        if bool((discrete.sum(dim=0, dtype=torch.int32) == 1).all()):
            # On the device: one volume of bytes travels, not one for each class.
            return _label_map(_array(discrete.argmax(dim=0).to(torch.uint8)), entry)
        discrete = discrete[1:]
    return _regions(_array(discrete), entry)


def found_values(prediction: torch.Tensor) -> frozenset[int]:
    """Give the label values other than background in a one-channel prediction."""
    values = torch.unique(prediction)
    return frozenset(int(value) for value in values) - {0}


def as_labels(prediction: torch.Tensor) -> torch.Tensor:
    """Give a discrete prediction in as few bytes as hold it; anything else as it is."""
    lowest, highest = float(prediction.min()), float(prediction.max())
    is_small = lowest >= 0 and highest <= np.iinfo(np.uint8).max
    return prediction.to(torch.uint8) if is_small and _is_whole(prediction) else prediction


def _is_whole(prediction: torch.Tensor) -> bool:
    return not prediction.is_floating_point() or bool((prediction == prediction.round()).all())


def _array(labels: torch.Tensor) -> npt.NDArray[np.unsignedinteger[Any]]:
    array = labels.numpy(force=True)
    return array if labels.dtype is torch.uint8 else array.astype(np.uint16)


def _discrete(prediction: torch.Tensor) -> torch.Tensor:
    """Give label values as uint8, or as int32 where they need it, still on the device."""
    if prediction.ndim != 4:
        raise ModelInvalid(
            f"The model gave {prediction.ndim} axes where (channels, columns, rows, slices) were "
            "expected."
        )
    highest, lowest = float(prediction.max()), float(prediction.min())
    if not _is_whole(prediction):
        raise ModelInvalid(
            "The model's postprocessing leaves probabilities where labels were expected: it needs "
            "AsDiscreted."
        )
    if lowest < 0 or highest > np.iinfo(np.uint16).max:
        raise ModelInvalid(f"The model gave labels from {lowest:g} to {highest:g}.")
    return prediction.to(torch.uint8 if highest <= np.iinfo(np.uint8).max else torch.int32)


def _label_map(array: npt.NDArray[np.unsignedinteger[Any]], entry: ModelEntry) -> Labels:
    labels = Labels(array=np.ascontiguousarray(array), values=entry.label_values)
    unknown = labels.present_values() - set(entry.label_values)
    if unknown:
        raise ModelInvalid(
            f"The model {entry.name!r} gave the label {min(unknown)}, which has no code: add it "
            f"under models.{entry.name}.segments in config.yaml.",
            code="label_without_code",
        )
    return labels


def _regions(array: npt.NDArray[np.unsignedinteger[Any]], entry: ModelEntry) -> Labels:
    if int(array.max(initial=0)) > 1:
        raise ModelInvalid(
            f"The model {entry.name!r} gave {array.shape[0]} channels that are neither one label "
            "map nor 0/1 masks."
        )
    if array.shape[0] != len(entry.segments):
        raise ModelInvalid(
            f"The model {entry.name!r} gave {array.shape[0]} regions, but "
            f"{len(entry.segments)} segments have a code in config.yaml.",
            code="label_without_code",
        )
    return Labels(
        array=np.ascontiguousarray(array, dtype=np.uint8),
        values=entry.label_values,
        is_overlapping=True,
    )

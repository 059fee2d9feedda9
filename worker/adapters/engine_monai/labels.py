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
    array = _discrete(prediction)
    if array.shape[0] == 1:
        return _label_map(array[0], entry)
    if entry.has_background_channel and array.shape[0] == len(entry.output_channels):
        if (array.sum(axis=0) == 1).all():
            return _label_map(array.argmax(axis=0).astype(np.uint8), entry)
        array = array[1:]
    return _regions(array, entry)


def found_values(prediction: torch.Tensor) -> frozenset[int]:
    """Give the label values other than background in a one-channel prediction."""
    values = torch.unique(prediction)
    return frozenset(int(value) for value in values) - {0}


def _discrete(prediction: torch.Tensor) -> npt.NDArray[np.unsignedinteger[Any]]:
    if prediction.ndim != 4:
        raise ModelInvalid(
            f"The model gave {prediction.ndim} axes where (channels, columns, rows, slices) were "
            "expected."
        )
    highest, lowest = float(prediction.max()), float(prediction.min())
    if prediction.is_floating_point() and not bool((prediction == prediction.round()).all()):
        raise ModelInvalid(
            "The model's postprocessing leaves probabilities where labels were expected: it needs "
            "AsDiscreted."
        )
    if lowest < 0 or highest > np.iinfo(np.uint16).max:
        raise ModelInvalid(f"The model gave labels from {lowest:g} to {highest:g}.")
    dtype = torch.uint8 if highest <= np.iinfo(np.uint8).max else torch.int32
    array = prediction.to(dtype).numpy(force=True)
    return array if dtype is torch.uint8 else array.astype(np.uint16)


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

"""An engine that needs no network: label n where channel 0 reaches the nth threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.catalogue import ModelEntry
from worker.core.segments import Labels


class ThresholdEngine:
    """Implements `worker.ports.Engine` by comparing grey values.

    Parameters
    ----------
    thresholds : sequence of float
        Ascending; a voxel gets the label value of the highest that it reaches.
    is_overlapping : bool
        Give one mask per label, each holding the next.
    """

    device = "cpu"

    def __init__(self, thresholds: Sequence[float], *, is_overlapping: bool = False) -> None:
        self._thresholds = tuple(thresholds)
        self._is_overlapping = is_overlapping
        self.channels: npt.NDArray[np.floating[Any]] | None = None
        self.affine_ras: npt.NDArray[np.floating[Any]] | None = None

    def load(self, model: ModelEntry) -> None:
        pass

    def leave_device(self) -> None:
        pass

    def segment(
        self,
        model: ModelEntry,
        channels: npt.NDArray[np.floating[Any]],
        affine_ras: npt.NDArray[np.floating[Any]],
        on_progress: Callable[[float], None],
    ) -> Labels:
        self.channels, self.affine_ras = channels, affine_ras
        on_progress(0.5)
        values = tuple(spec.label_value for spec in model.segments)
        masks = [channels[0] >= threshold for threshold in self._thresholds]
        on_progress(1.0)
        if self._is_overlapping:
            return Labels(
                array=np.stack(masks).astype(np.uint8), values=values, is_overlapping=True
            )
        array = np.zeros(channels.shape[1:], dtype=np.uint8)
        for value, mask in zip(values, masks, strict=True):
            array[mask] = value
        return Labels(array=array, values=values)

"""Training cases: phantoms straight on the network's grid, and what is varied in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from demo.anatomy import SEQUENCES, draw_anatomy
from demo.fields import FloatArray, Grid, rotation_from_degrees
from demo.phantom import LabelArray, ScanQuality, lay_out, region_mask, render

REGION_ORDER = ("TC", "WT", "ET")


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingCase:
    """A phantom on the network's grid.

    Parameters
    ----------
    image : (4, I, J, K) float16
        Normalised, in the order of `SEQUENCES`.
    labels : (I, J, K) uint8
    """

    image: npt.NDArray[np.float16]
    labels: LabelArray


def draw_case(seed: int, spacing_mm: float) -> TrainingCase:
    """Draw a training case: one head, tilted and cropped as a scan might be."""
    rng = np.random.default_rng([20_240_502, seed])
    anatomy = draw_anatomy(seed)
    extent_mm = rng.uniform((190, 210, 110), (230, 240, 165))
    i, j, k = (int(n) for n in np.round(extent_mm / spacing_mm))
    grid = Grid.centred(
        (i, j, k),
        (spacing_mm,) * 3,
        rotation=rotation_from_degrees(rng.uniform(-18, 18, 3)),
        centre_mm=rng.uniform((-6, -8, -2), (6, 12, 16)),
    )
    scene = lay_out(anatomy, grid)
    channels = [
        _as_resampled(render(scene, name, ScanQuality.draw(rng), (seed, n)), rng, spacing_mm, n > 0)
        for n, name in enumerate(SEQUENCES)
    ]
    return TrainingCase(image=np.stack(channels).astype(np.float16), labels=scene.labels)


def region_stack(labels: LabelArray) -> FloatArray:
    """Stack the masks of TC, WT and ET, (3, I, J, K), as the network answers."""
    return np.stack([region_mask(labels, name) for name in REGION_ORDER]).astype(np.float32)


def normalise(channel: FloatArray) -> FloatArray:
    """Scale to mean 0 and deviation 1 over what is not exactly 0, as NormalizeIntensityd does."""
    seen = channel != 0
    out = np.zeros_like(channel)
    out[seen] = (channel[seen] - channel[seen].mean()) / channel[seen].std()
    return out


def _as_resampled(
    channel: FloatArray, rng: np.random.Generator, spacing_mm: float, may_end: bool
) -> FloatArray:
    """Blur as a thick slice and interpolation do; let a channel end before the main series."""
    sigma = np.zeros(3)
    sigma[rng.integers(3)] = rng.uniform(0, 1.8) / spacing_mm
    sigma = np.hypot(sigma, rng.uniform(0, 0.7) / spacing_mm)
    channel = ndimage.gaussian_filter(channel, sigma, truncate=3.0)
    if may_end and rng.random() < 0.3:
        ends = rng.integers(0, 7, 2)
        channel[:, :, : ends[0]] = 0
        channel[:, :, channel.shape[2] - ends[1] :] = 0
    return normalise(channel)

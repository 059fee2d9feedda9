"""Between our arrays and MONAI's: channel-first MetaTensors whose affine is RAS, as MONAI's is."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from monai.utils import MetaKeys, SpaceKeys

from worker.adapters.engine_monai.labels import as_labels
from worker.adapters.engine_monai.parts import Data
from worker.core.errors import ModelInvalid

FloatArray = npt.NDArray[np.floating[Any]]

# Corners further apart than this are another grid. MONAI's inverse gives back affines to about
# 1e-4 mm in float32; half the smallest voxel of head MRI is 0.2 mm.
GRID_TOLERANCE_MM = 0.01


def to_data(
    channels: FloatArray,
    affine_ras: FloatArray,
    keys: tuple[str, ...],
    device: torch.device | None = None,
) -> Data:
    """Make what a bundle's `LoadImaged` and `EnsureChannelFirstd` would have made.

    Parameters
    ----------
    channels : (C, I, J, K) float32
    affine_ras : (4, 4)
        Voxel index -> RAS, mm.
    keys : tuple of str
        One key for all channels, or one for each.
    device : torch.device, optional
        Where the images are put; the host by default.
    """
    if len(keys) not in (1, channels.shape[0]):
        raise ModelInvalid(
            f"The model reads {len(keys)} images ({', '.join(keys)}) but has "
            f"{channels.shape[0]} channels: one image, or one for each channel, can be fed."
        )
    parts = [channels] if len(keys) == 1 else [channel[None] for channel in channels]
    data: Data = {}
    for key, part in zip(keys, parts, strict=True):
        image = _meta_tensor(part, affine_ras, device)
        data[key] = image
        data[f"{key}_meta_dict"] = dict(image.meta)  # bundles that load with image_only=False
    return data


def _meta_tensor(
    channels: FloatArray, affine_ras: FloatArray, device: torch.device | None
) -> MetaTensor:
    affine = torch.as_tensor(np.asarray(affine_ras, dtype=np.float64))
    return MetaTensor(
        _copy(channels, device or torch.device("cpu")),
        affine=affine,
        meta={
            MetaKeys.ORIGINAL_AFFINE: affine.numpy().copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(channels.shape[1:]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
            MetaKeys.SPACE: SpaceKeys.RAS,
            "filename_or_obj": "case",
        },
    )


def _copy(channels: FloatArray, device: torch.device) -> torch.Tensor:
    """Give a copy: a bundle's transforms may change it in place; the caller still needs its own.

    Arrays of slices lie in memory as (C, K, J, I). They travel as they lie, and are turned into the
    order that MONAI's own loader gives where the network runs: by all threads, or by the card.
    """
    if not channels.flags.writeable or min(channels.strides) < 0:
        channels = channels.copy(order="K")  # torch takes no others
    given = torch.from_numpy(channels.astype(np.float32, copy=False))
    own = given.to(device)
    turned = own.contiguous()
    return turned.clone() if turned.data_ptr() == given.data_ptr() else turned


def on_input_grid(
    prediction: torch.Tensor, shape: tuple[int, int, int], affine_ras: FloatArray
) -> torch.Tensor:
    """Give labels on the grid of the input, nearest neighbour where a bundle left them elsewhere.

    Parameters
    ----------
    prediction : (C, I', J', K')
        A MetaTensor knows its grid; a plain tensor must have the input's shape.
    shape, affine_ras
        Of the input.
    """
    if not isinstance(prediction, MetaTensor):
        if tuple(prediction.shape[1:]) != shape:
            raise ModelInvalid(
                f"The model gave a mask of {tuple(prediction.shape[1:])} voxels for an image of "
                f"{shape} and doesn't say where it lies: its postprocessing needs Invertd."
            )
        return prediction
    own_affine = prediction.affine.numpy(force=True).astype(np.float64)
    own_shape = tuple(int(size) for size in prediction.shape[1:])
    if own_shape == shape and is_same_grid(own_affine, affine_ras, shape):
        return _plain(prediction)
    resample = SpatialResample(
        mode="nearest", padding_mode="zeros", align_corners=True, dtype=torch.float64
    )
    return _plain(
        # On the host, where it is known to be right; as labels, of which fewer bytes travel.
        resample(
            as_labels(prediction).cpu(), dst_affine=torch.as_tensor(affine_ras), spatial_size=shape
        )
    )


def _plain(image: MetaTensor) -> torch.Tensor:
    tensor: torch.Tensor = image.as_tensor()
    return tensor


def is_same_grid(one: FloatArray, other: FloatArray, shape: tuple[int, int, int]) -> bool:
    """Whether two affines put every corner of a grid into the same place."""
    corners = np.array(
        [[*corner, 1] for corner in product(*((0, size - 1) for size in shape))], dtype=np.float64
    ).T
    return bool(np.abs((one - other) @ corners).max() <= GRID_TOLERANCE_MM)

"""The engine: loads models, keeps them warm, and turns channels into labels on the same grid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor

from worker.adapters.engine_monai.bundle import apply_threshold, load_bundle
from worker.adapters.engine_monai.bundle_imports import importable
from worker.adapters.engine_monai.faults import mapped_faults
from worker.adapters.engine_monai.labels import to_labels
from worker.adapters.engine_monai.parts import Data, Parts
from worker.adapters.engine_monai.progress import count_windows, counted
from worker.adapters.engine_monai.single_file import load_single_file
from worker.adapters.engine_monai.steps import (
    postprocess,
    prepare,
    prepared_image,
    single_output,
)
from worker.adapters.engine_monai.volume import on_input_grid
from worker.catalogue import ModelEntry
from worker.core.errors import ModelInvalid, SeriesInvalid, SettingsError
from worker.core.segments import Labels

FloatArray = npt.NDArray[np.floating[Any]]

logger = logging.getLogger(__name__)


def choose_device(wanted: str) -> torch.device:
    """Turn DEVICE (auto, cpu, cuda, cuda:N) into a device that exists.

    Raises
    ------
    SettingsError
        CUDA was asked for, and torch finds no such device.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return torch.device("cuda:0" if count else "cpu")
    device = torch.device("cuda:0" if wanted == "cuda" else wanted)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise SettingsError(
            f"DEVICE: {wanted}, but torch {torch.__version__} finds {count} CUDA devices: install "
            "a torch build for CUDA and NVIDIA's driver, or set DEVICE=cpu."
        )
    return device


@dataclass(frozen=True, kw_only=True)
class _Warm:
    entry: ModelEntry
    parts: Parts
    notes: tuple[str, ...] = ()


class MonaiEngine:
    """Runs MONAI bundles, TorchScript and ``torch.export`` models (`worker.ports.Engine`).

    Parameters
    ----------
    device : str
        auto, cpu, cuda or cuda:N.
    threshold : float, optional
        For every model whose postprocessing has one; a model's own option comes first.
    threads : int, optional
        CPU threads of one operation; torch's choice by default.
    """

    def __init__(
        self, device: str = "auto", *, threshold: float | None = None, threads: int | None = None
    ) -> None:
        self._device = choose_device(device)
        self._threshold = threshold
        self._warm: dict[str, _Warm] = {}
        if threads is not None:
            torch.set_num_threads(threads)
        # The same case gives the same mask each time; benchmark mode picks algorithms by timing.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True

    @property
    def device(self) -> str:
        """The device in torch's words, such as ``cuda:0`` or ``cpu``."""
        return str(self._device)

    def load(self, model: ModelEntry) -> None:
        """Bring a model into memory; a second call for the same one costs nothing."""
        self.parts(model)

    def parts(self, model: ModelEntry) -> Parts:
        """Give a model's network and steps, loaded where they aren't yet."""
        return self._warmed(model).parts

    def _warmed(self, model: ModelEntry) -> _Warm:
        warm = self._warm.get(model.name)
        if warm is None or warm.entry != model:
            warm = self._warm[model.name] = self._load(model)
        return warm

    def segment(
        self,
        model: ModelEntry,
        channels: FloatArray,
        affine_ras: FloatArray,
        on_progress: Callable[[float], None],
    ) -> Labels:
        """Segment one case (see `worker.ports.Engine.segment`).

        Raises
        ------
        SeriesInvalid
            The images can't be segmented: not as many as channels, not finite, or constant.
        ModelInvalid
            The model fails on them, or gives what has no code.
        EngineOutOfMemory, EngineBroken
        """
        _check_channels(model, channels)
        warm = self._warmed(model)
        parts = warm.parts
        with torch.inference_mode(), _imports_of(model):
            data = self._preprocess(parts, channels, affine_ras)
            prediction = self._infer(parts, data, model, on_progress)
            with mapped_faults("making the mask from the network's output", self._device):
                prediction = postprocess(parts, data, prediction)
                shape = (channels.shape[1], channels.shape[2], channels.shape[3])
                labels = to_labels(on_input_grid(prediction, shape, affine_ras), model)
        return replace(labels, notes=warm.notes)

    def _load(self, model: ModelEntry) -> _Warm:
        build = load_bundle if model.format == "bundle" else load_single_file
        with mapped_faults(f"loading {model.name}", self._device):
            parts = build(model, self._device)
        threshold = model.options.get("threshold", self._threshold)
        notes = () if threshold is None else (_set_threshold(parts, float(threshold)),)
        logger.info("model_loaded", extra={"model": model.name, "device": self.device})
        return _Warm(entry=model, parts=parts, notes=notes)

    def _preprocess(self, parts: Parts, channels: FloatArray, affine_ras: FloatArray) -> Data:
        with mapped_faults("preparing the images", self._device):
            return prepare(parts, channels, affine_ras)

    def _infer(
        self, parts: Parts, data: Data, model: ModelEntry, on_progress: Callable[[float], None]
    ) -> torch.Tensor:
        image = prepared_image(parts, data)
        is_half = model.options.get("amp", parts.is_mixed_precision)
        if self._device.type == "cuda" and is_half:
            prediction = self._forward(parts, image, on_progress, torch.float16)
            if _is_finite(prediction):
                return prediction
            logger.warning("half_precision_overflowed", extra={"model": model.name})
        prediction = self._forward(parts, image, on_progress, None)
        if not _is_finite(prediction):
            raise ModelInvalid(
                f"The network of {model.name!r} gave values that are not numbers: its weights or "
                "its preprocessing don't fit these images.",
                code="network_not_finite",
            )
        return prediction

    def _forward(
        self,
        parts: Parts,
        image: torch.Tensor,
        on_progress: Callable[[float], None],
        half: torch.dtype | None,
    ) -> torch.Tensor:
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        windows = count_windows(parts.inferer, tuple(plain.shape[1:]))
        with (
            mapped_faults("running the network", self._device),
            counted(parts.network, windows, on_progress),
            _precision(half),
        ):
            batch = plain[None].to(self._device, dtype=torch.float32)
            output = parts.inferer(inputs=batch, network=parts.network)
        return single_output(output)[0].float()


def _set_threshold(parts: Parts, threshold: float) -> str:
    if apply_threshold(parts.postprocessing, threshold):
        return f"The threshold was set to {threshold:g} by this worker's settings."
    return (
        f"The threshold {threshold:g} of this worker's settings has no effect on this model: it "
        "takes the likeliest label."
    )


def _check_channels(model: ModelEntry, channels: FloatArray) -> None:
    if channels.ndim != 4 or channels.shape[0] != len(model.channels):
        raise SeriesInvalid(
            f"The model {model.name!r} needs {len(model.channels)} series "
            f"({', '.join(model.channels)}) in this order, and got {channels.shape[0]}.",
            code="channel_count",
        )
    for name, channel in zip(model.channels, channels, strict=True):
        lowest, highest = float(channel.min()), float(channel.max())
        if not np.isfinite(lowest) or not np.isfinite(highest):
            raise SeriesInvalid(
                f"The {name} series holds values that are not finite numbers; send the original "
                "images of the scanner.",
                code="not_finite",
            )
        if lowest == highest:
            raise SeriesInvalid(
                f"The {name} series is empty: every voxel has the value {lowest:g}.",
                code="constant_image",
            )


def _is_finite(prediction: torch.Tensor) -> bool:
    # The sum is NaN or infinite if any value is; a mask of isfinite would cost a volume of memory.
    return bool(torch.isfinite(prediction.sum(dtype=torch.float64)))


def _precision(half: torch.dtype | None) -> AbstractContextManager[Any]:
    return nullcontext() if half is None else torch.autocast("cuda", dtype=half)


@contextmanager
def _imports_of(model: ModelEntry) -> Iterator[None]:
    # Code of a bundle may import more of itself when it first runs.
    if model.format != "bundle" or not (model.path / "scripts").is_dir():
        yield
        return
    with importable(model.path):
        yield

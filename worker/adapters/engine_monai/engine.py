"""The engine: loads models, keeps them warm, and turns channels into labels on the same grid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from worker.adapters.engine_monai.bundle import apply_threshold, load_bundle
from worker.adapters.engine_monai.bundle_imports import importable
from worker.adapters.engine_monai.device import Device, choose_device
from worker.adapters.engine_monai.fast_steps import speed_up
from worker.adapters.engine_monai.faults import mapped_faults
from worker.adapters.engine_monai.labels import to_labels
from worker.adapters.engine_monai.parts import Data, Parts
from worker.adapters.engine_monai.running import NetworkRunner
from worker.adapters.engine_monai.single_file import load_single_file
from worker.adapters.engine_monai.steps import (
    is_same_on_a_card,
    postprocess,
    prepare,
    prepared_image,
)
from worker.adapters.engine_monai.volume import on_input_grid
from worker.catalogue import ModelEntry
from worker.core.errors import EngineOutOfMemory, ModelInvalid, SeriesInvalid
from worker.core.segments import Labels
from worker.model_memory import ModelMemory

FloatArray = npt.NDArray[np.floating[Any]]

logger = logging.getLogger(__name__)

_PREPROCESSING = "preparing the images"
_POSTPROCESSING = "making the mask from the network's output"


@dataclass(kw_only=True)
class _Warm:
    """A loaded model; `is_prepared_on_card` is taken back when that fails."""

    entry: ModelEntry
    parts: Parts
    runner: NetworkRunner
    is_prepared_on_card: bool
    notes: tuple[str, ...] = ()


class Grid:
    """The grid of a case: the mask must lie on it.

    Parameters
    ----------
    channels : (C, I, J, K)
    affine_ras : (4, 4)
        Voxel index -> RAS, mm.
    """

    def __init__(self, channels: FloatArray, affine_ras: FloatArray) -> None:
        _, i, j, k = channels.shape
        self.shape = (i, j, k)
        self.affine_ras = affine_ras


class MonaiEngine:
    """Runs MONAI bundles, TorchScript and ``torch.export`` models (`worker.ports.Engine`).

    Parameters
    ----------
    device : str or Device
        auto, cpu, cuda or cuda:N; or one that was chosen.
    threshold : float, optional
        For every model whose postprocessing has one; a model's own option comes first.
    threads : int, optional
        CPU threads of one operation; torch's choice by default.
    known : ModelMemory, optional
        How networks were run before; by default it is learned anew and kept for this process.

    Notes
    -----
    One thread loads and segments; others may read and write other cases meanwhile. What belongs to
    the process (threads, cuDNN's switches) is set here, once, and never for one case.
    """

    def __init__(
        self,
        device: str | Device = "auto",
        *,
        threshold: float | None = None,
        threads: int | None = None,
        known: ModelMemory | None = None,
    ) -> None:
        self._device = Device(choose_device(device)) if isinstance(device, str) else device
        self._threshold = threshold
        self._known = known or ModelMemory()
        self._warm: dict[str, _Warm] = {}
        self._has_failed = False
        if threads is not None:
            torch.set_num_threads(threads)
        # The same case gives the same mask each time; benchmark mode picks algorithms by timing.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True

    @property
    def device(self) -> str:
        """The device in torch's words, such as ``cuda:0`` or ``cpu``."""
        return str(self._device.torch)

    @property
    def hardware(self) -> Device:
        """The device itself, for measuring it."""
        return self._device

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

    def leave_device(self) -> None:
        """Give other processes of the same device the memory that torch holds in reserve."""
        self._device.share()

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
        with self._cleaned():
            return self._segment(self._warmed(model), channels, affine_ras, on_progress)

    def _segment(
        self,
        warm: _Warm,
        channels: FloatArray,
        affine_ras: FloatArray,
        on_progress: Callable[[float], None],
    ) -> Labels:
        model, parts = warm.entry, warm.parts
        with torch.inference_mode(), _imports_of(model):
            data = self._prepare(warm, channels, affine_ras)
            prediction = warm.runner.run(prepared_image(parts, data), on_progress)
            grid = Grid(channels, affine_ras)
            labels = self._finish(warm, data, prediction.output, grid)
        return replace(labels, notes=warm.notes + prediction.notes)

    @contextmanager
    def _cleaned(self) -> Iterator[None]:
        """Let a failed case leave no tensors to the next one.

        Only then, and not at the failure itself, the error that holds them is gone; and a case that
        went well leaves its memory to torch's reserve, from which the next one takes it.
        """
        if self._has_failed:
            self._device.release(is_thorough=True)
        self._has_failed = True
        yield
        self._has_failed = False

    def prepare(
        self,
        model: ModelEntry,
        channels: FloatArray,
        affine_ras: FloatArray,
        *,
        is_on_host: bool = False,
    ) -> Data:
        """Do a model's preprocessing alone, where `segment` would do it or on the host."""
        warm = self._warmed(model)
        if is_on_host:
            warm = replace(warm, is_prepared_on_card=False)
        with torch.inference_mode(), _imports_of(model):
            return self._prepare(warm, channels, affine_ras)

    def finish(self, model: ModelEntry, data: Data, output: torch.Tensor, grid: Grid) -> Labels:
        """Do a model's postprocessing alone: from the network's output to labels."""
        warm = self._warmed(model)
        with torch.inference_mode(), _imports_of(model):
            return self._finish(warm, data, output, grid)

    def _finish(self, warm: _Warm, data: Data, output: torch.Tensor, grid: Grid) -> Labels:
        discrete = self._postprocess(warm.parts, data, output)
        with mapped_faults(_POSTPROCESSING, self._device.torch):
            return to_labels(on_input_grid(discrete, grid.shape, grid.affine_ras), warm.entry)

    def runner(self, model: ModelEntry) -> NetworkRunner:
        """Give what runs a model's network, for measuring it apart from its steps."""
        return self._warmed(model).runner

    def _load(self, model: ModelEntry) -> _Warm:
        try:
            parts = self._load_parts(model)
        except EngineOutOfMemory:
            others = self._warm.keys() - {model.name}
            if not others:
                raise
            parts = None
        if parts is None:
            # Models that were warm for other requests make room for the one that is wanted.
            self._let_go(but=model.name)
            parts = self._load_parts(model)
        speed_up(parts.preprocessing)
        threshold = model.options.get("threshold", self._threshold)
        notes = () if threshold is None else (_set_threshold(parts, float(threshold)),)
        logger.info("model_loaded", extra={"model": model.name, "device": self.device})
        return _Warm(
            entry=model,
            parts=parts,
            runner=NetworkRunner(model, parts, self._device, self._known),
            is_prepared_on_card=self._device.is_card and is_same_on_a_card(parts.preprocessing),
            notes=notes,
        )

    def _load_parts(self, model: ModelEntry) -> Parts:
        build = load_bundle if model.format == "bundle" else load_single_file
        with mapped_faults(f"loading {model.name}", self._device.torch):
            return build(model, self._device.torch)

    def _let_go(self, *, but: str) -> None:
        self._warm = {name: warm for name, warm in self._warm.items() if name == but}
        self._device.release(is_thorough=True)

    def _prepare(self, warm: _Warm, channels: FloatArray, affine_ras: FloatArray) -> Data:
        if warm.is_prepared_on_card:
            try:
                with mapped_faults(_PREPROCESSING, self._device.torch):
                    return prepare(warm.parts, channels, affine_ras, self._device.torch)
            except (EngineOutOfMemory, ModelInvalid) as error:
                logger.warning("prepared_on_the_host", extra={"reason": error.message})
                warm.is_prepared_on_card = False
            self._device.release()
        with mapped_faults(_PREPROCESSING, self._device.torch):
            return prepare(warm.parts, channels, affine_ras)

    def _postprocess(self, parts: Parts, data: Data, output: torch.Tensor) -> torch.Tensor:
        try:
            with mapped_faults(_POSTPROCESSING, self._device.torch):
                return postprocess(parts, data, output)
        except EngineOutOfMemory:
            if not self._device.is_card:
                raise
        self._device.release()
        with mapped_faults(_POSTPROCESSING, self._device.torch):
            return postprocess(parts, data, output.cpu())


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
        lowest, highest = _limits(channel)
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


def _limits(channel: FloatArray) -> tuple[float, float]:
    """Give the least and the largest value: both NaN where any is."""
    # NumPy reads an array in the order in which it lies, torch in that of its axes.
    return float(channel.min()), float(channel.max())


@contextmanager
def _imports_of(model: ModelEntry) -> Iterator[None]:
    # Code of a bundle may import more of itself when it first runs.
    if model.format != "bundle" or not (model.path / "scripts").is_dir():
        yield
        return
    with importable(model.path):
        yield

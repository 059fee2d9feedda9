"""Runs a loaded network on one volume: in the mode that is known to work, or that turns out to.

When memory runs out the mode steps down by itself, and the one that worked is remembered for the
next volume of that size (`worker.model_memory`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from monai.data import MetaTensor

from worker.adapters.engine_monai import windows
from worker.adapters.engine_monai.device import Device
from worker.adapters.engine_monai.faults import mapped_faults
from worker.adapters.engine_monai.networks import Networks
from worker.adapters.engine_monai.one_window import is_one_plain_window, run_one_window
from worker.adapters.engine_monai.parts import Parts
from worker.adapters.engine_monai.progress import counted
from worker.adapters.engine_monai.steps import single_output
from worker.catalogue import ModelEntry
from worker.core.errors import EngineOutOfMemory, ModelInvalid
from worker.model_memory import (
    SIZED,
    STEPPED_DOWN,
    Mode,
    ModelMemory,
    Remembered,
    Where,
    shape_class,
)

logger = logging.getLogger(__name__)

OnFraction = Callable[[float], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What a network gave.

    Parameters
    ----------
    output : (C, I, J, K) float32 tensor
    mode : Mode
        That it was run in.
    notes : tuple of str
        What a person must know of that.
    """

    output: torch.Tensor
    mode: Mode
    notes: tuple[str, ...] = ()


class NetworkRunner:
    """Runs one model's network.

    Parameters
    ----------
    entry : ModelEntry
    parts : Parts
    device : Device
    known : ModelMemory
        What worked before.
    networks : Networks, optional
        By default those of `parts`.
    """

    def __init__(
        self,
        entry: ModelEntry,
        parts: Parts,
        device: Device,
        known: ModelMemory,
        *,
        networks: Networks | None = None,
    ) -> None:
        self._entry = entry
        self._parts = parts
        self._device = device
        self._known = known
        self._networks = networks or Networks(parts.network, device)

    def where(self, image: torch.Tensor) -> Where:
        """Give what a mode is remembered for."""
        return Where(
            model_sha256=self._entry.sha256,
            device=self._device.name,
            torch=str(torch.__version__),
            shape=shape_class(image.shape[1:]),
        )

    def first_mode(self, image: torch.Tensor) -> Mode:
        """Give the mode to try first: what is remembered, below what the settings ask for."""
        remembered = self._known.recall(self.where(image))
        mode = remembered.mode if remembered is not None else _default(self._parts)
        is_short = remembered is not None and remembered.reason == STEPPED_DOWN
        return self.allowed(replace(mode, **_asked_for(self._entry.options, is_short=is_short)))

    def allowed(self, mode: Mode) -> Mode:
        """Take out of a mode what can't be done here."""
        return self._networks.allowed(mode)

    def run(self, image: torch.Tensor, on_progress: OnFraction) -> Prediction:
        """Run in the first mode that fits, and remember it where it was not the first.

        Parameters
        ----------
        image : (C, I, J, K) tensor
        on_progress : callable
            Called with 0 to 1; it begins anew with each mode.

        Raises
        ------
        EngineOutOfMemory
            Nothing smaller is left to try.
        ModelInvalid
            The network fails, or gives values that are not numbers.
        """
        first = self.first_mode(image)
        mode, reason = self._sized(first, image)
        while True:
            output = self._try(mode, image, on_progress)
            if isinstance(output, torch.Tensor):
                break
            mode, reason = output, STEPPED_DOWN
        if mode != first:
            where = self.where(image)
            self._known.keep(Remembered(where=where, mode=mode, reason=reason))
        return Prediction(output=output, mode=mode, notes=self._notes(mode, image))

    def _try(self, mode: Mode, image: torch.Tensor, on_progress: OnFraction) -> torch.Tensor | Mode:
        """Give the output, or the mode to try next."""
        try:
            output = self.run_in(mode, image, on_progress)
        except EngineOutOfMemory as error:
            failure = _bare(error)
        except ModelInvalid as error:
            return self._mode_after(mode, error)
        else:
            return output if is_finite(output) else self._mode_after_overflow(mode)
        # Only here: inside the handler the traceback still holds the tensors that did not fit.
        self._device.release()
        lower = self._lower(mode, image)
        if lower is None:
            raise failure
        self._log("memory_ran_out", mode, lower)
        return lower

    def run_in(self, mode: Mode, image: torch.Tensor, on_progress: OnFraction) -> torch.Tensor:
        """Run in one mode and no other: (C, I, J, K) in, (C', I, J, K) float32 out."""
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        shape = tuple(plain.shape[1:])
        inferer = windows.inferer_for(mode, self._parts.inferer, shape)
        with (
            mapped_faults("running the network", self._device.torch),
            self._networks.running(mode) as network,
            counted(
                network,
                windows.count_calls(inferer, shape),
                on_progress,
                has_layers=not mode.is_compiled,
            ),
        ):
            batch = plain[None].to(self._device.torch, dtype=torch.float32)
            output = None
            if is_one_plain_window(inferer, shape):
                output = run_one_window(inferer, batch, network)
            if output is None:
                output = single_output(inferer(inputs=batch, network=network))
            if mode.stitching == "host":
                output = output.cpu()
            return output[0].float()

    def _sized(self, mode: Mode, image: torch.Tensor) -> tuple[Mode, str]:
        """Size the number of windows at once to a card's memory, where nothing says it yet."""
        shape, inferer = tuple(image.shape[1:]), self._parts.inferer
        is_open = mode.window_batch is None and mode.window is None and not mode.is_one_pass
        if not self._device.is_card or not is_open or windows.is_one_window(inferer, shape):
            return mode, SIZED
        try:
            batch = self._fitting_batch(mode, image)
        except (EngineOutOfMemory, ModelInvalid) as error:
            # Stepping down, or saying what is wrong with the network, is not this step's.
            extra = {"model": self._entry.name, "reason": error.message}
            logger.warning("windows_not_sized", extra=extra)
        else:
            return replace(mode, window_batch=batch), SIZED
        self._device.release()
        return mode, SIZED

    def _fitting_batch(self, mode: Mode, image: torch.Tensor) -> int:
        """Run one window of nothing, and see what it takes."""
        shape, inferer = tuple(image.shape[1:]), self._parts.inferer
        with (
            mapped_faults("trying one window", self._device.torch),
            self._networks.running(mode) as network,
        ):
            free_bytes = self._device.free_bytes()
            self._device.reset_peak()
            before = self._device.used_bytes()
            window = windows.window_of(inferer, shape)
            given = torch.zeros(1, image.shape[0], *window, device=self._device.torch)
            output = single_output(network(given))
            taken = self._device.peak_bytes() - before
        voxels = image[0].numel()
        return windows.fitting_batch(
            windows=windows.count_windows(inferer, shape),
            window_bytes=taken,
            # The image, the blended volume and the weights' sum, in float32.
            stitch_bytes=4 * voxels * (image.shape[0] + output.shape[1] + 1),
            free_bytes=free_bytes,
        )

    def _lower(self, mode: Mode, image: torch.Tensor) -> Mode | None:
        return windows.step_down(
            mode, self._parts.inferer, tuple(image.shape[1:]), is_card=self._device.is_card
        )

    def _mode_after(self, mode: Mode, error: ModelInvalid) -> Mode:
        """Give the mode to try after a failure that only the mode explains, or raise."""
        if mode.window is not None:
            size = "x".join(map(str, mode.window))
            raise EngineOutOfMemory(
                f"The memory of {self._device.name} did not hold this model's own window, and its "
                f"network doesn't take a smaller one ({size}): close other programs that use the "
                "memory, or run this model on a larger device."
            ) from error
        if mode.is_compiled:
            lower = replace(mode, is_compiled=False)
            self._log("compiled_network_failed", mode, lower)
            return lower
        raise error

    def _mode_after_overflow(self, mode: Mode) -> Mode:
        if mode.precision == "float32":
            raise ModelInvalid(
                f"The network of {self._entry.name!r} gave values that are not numbers: its "
                "weights or its preprocessing don't fit these images.",
                code="network_not_finite",
            )
        lower = replace(mode, precision="float32")
        self._log("half_precision_overflowed", mode, lower)
        return lower

    def _notes(self, mode: Mode, image: torch.Tensor) -> tuple[str, ...]:
        if mode.window is None:
            return ()
        own = windows.window_of(self._parts.inferer, tuple(image.shape[1:]))
        sizes = ["x".join(map(str, size)) for size in (mode.window, own)]
        return (
            f"The network was run on smaller windows ({sizes[0]} voxels) than it was made for "
            f"({sizes[1]}), because memory did not suffice: the mask can differ from that of a "
            "larger device.",
        )

    def _log(self, event: str, mode: Mode, lower: Mode) -> None:
        extra = {"model": self._entry.name, "was": mode.describe(), "next": lower.describe()}
        logger.warning(event, extra=extra)


def _default(parts: Parts) -> Mode:
    return Mode(precision="fp16" if parts.is_mixed_precision else "float32")


def _asked_for(options: Mapping[str, Any], *, is_short: bool) -> dict[str, Any]:
    """Give what the model's options in config.yaml ask for.

    Parameters
    ----------
    options : mapping
        `worker.catalogue.MODEL_OPTIONS`.
    is_short : bool
        Whether memory ran out before: then how much is done at once is what worked.
    """
    asked: dict[str, Any] = {}
    if "amp" in options:
        asked["precision"] = {True: "fp16", False: "float32", "off": "float32"}.get(
            options["amp"], options["amp"]
        )
    if "channels_last_3d" in options:
        asked["layout"] = "channels_last_3d" if options["channels_last_3d"] else "contiguous"
    if "compile" in options:
        asked["is_compiled"] = options["compile"]
    if not is_short and "window_batch" in options:
        asked["window_batch"] = options["window_batch"]
    if not is_short and "one_pass" in options:
        asked["is_one_pass"] = options["one_pass"]
    return asked


def _bare(error: EngineOutOfMemory) -> EngineOutOfMemory:
    """Give the same sentence without the frames, which hold what did not fit."""
    return EngineOutOfMemory(error.message, code=error.code)


def is_finite(prediction: torch.Tensor) -> bool:
    """Whether every value of a network's output is a number."""
    # The sum is NaN or infinite if any value is; only a sum that overflows by itself is looked at
    # again, since a mask of isfinite costs a volume of memory.
    return bool(torch.isfinite(prediction.sum())) or bool(torch.isfinite(prediction).all())

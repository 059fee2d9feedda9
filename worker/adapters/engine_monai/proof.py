"""Whether a way of running a network gives the mask of the reference, and how fast it is.

The reference is contiguous float32 without TF32, on the model's own windows. These are commands'
work, in a process of their own: they change torch's switches for a moment, which the worker never
does, since they belong to the whole process.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from worker.adapters.engine_monai.engine import FloatArray, Grid, MonaiEngine
from worker.adapters.engine_monai.running import is_finite
from worker.adapters.engine_monai.steps import prepared_image
from worker.adapters.engine_monai.utilisation import Utilisation
from worker.catalogue import ModelEntry
from worker.core.errors import EngineOutOfMemory, ModelInvalid
from worker.core.segments import Labels
from worker.model_memory import Mode

logger = logging.getLogger(__name__)

REFERENCE = Mode()
# Half precision on real brains keeps every structure above this; a wrong layout does not.
LEAST_DICE = 0.999


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One mode on one volume.

    Parameters
    ----------
    seconds : tuple of float
        Of each run of the network.
    peak_bytes : int
        The most memory in use meanwhile: tensors of a card, all of the process on a CPU.
    dice : mapping of int to float
        By label value, against the reference; 1 where neither has a voxel.
    voxels : mapping of int to int
        By label value, in this mode's mask.
    is_telling : bool
        Whether the reference found anything: two empty masks agree and prove nothing.
    utilisation : float, optional
        Mean share of the time that a GPU was busy, as its driver says.
    problem : str
        Why there is nothing else.
    """

    mode: Mode
    seconds: tuple[float, ...] = ()
    peak_bytes: int = 0
    dice: Mapping[int, float] = field(default_factory=dict)
    voxels: Mapping[int, int] = field(default_factory=dict)
    is_telling: bool = True
    utilisation: float | None = None
    problem: str = ""

    @property
    def median_s(self) -> float:
        """The median of the runs."""
        return statistics.median(self.seconds) if self.seconds else float("inf")

    @property
    def least_dice(self) -> float:
        """Of all segments."""
        return min(self.dice.values(), default=0.0 if self.problem else 1.0)

    @property
    def agrees(self) -> bool:
        """Whether it may be used instead of the reference."""
        return not self.problem and self.is_telling and self.least_dice >= LEAST_DICE


class Trial:
    """One volume for one model, prepared once, run in any mode.

    Parameters
    ----------
    engine : MonaiEngine
    entry : ModelEntry
    channels : (C, I, J, K) float32
    affine_ras : (4, 4)
        Voxel index -> RAS, mm.
    """

    def __init__(
        self,
        engine: MonaiEngine,
        entry: ModelEntry,
        channels: FloatArray,
        affine_ras: FloatArray,
    ) -> None:
        self.engine = engine
        self.entry = entry
        self._grid = Grid(channels, affine_ras)
        self._data = engine.prepare(entry, channels, affine_ras)
        self._host_data = engine.prepare(entry, channels, affine_ras, is_on_host=True)
        self._reference: Labels | None = None

    @property
    def image(self) -> torch.Tensor:
        """The (C, I, J, K) input of the network."""
        return prepared_image(self.engine.parts(self.entry), self._data)

    def first_mode(self) -> Mode:
        """Give the mode that the worker would begin with."""
        return self.engine.runner(self.entry).first_mode(self.image)

    def can(self, mode: Mode) -> bool:
        """Whether a mode can be used on this device at all."""
        return self.engine.runner(self.entry).allowed(mode) == mode

    def reference(self) -> Labels:
        """Give the mask that every mode is compared with."""
        if self._reference is None:
            image = prepared_image(self.engine.parts(self.entry), self._host_data)
            with exact_float32():
                output = self._run(REFERENCE, image)
            self._reference = self.engine.finish(self.entry, self._host_data, output, self._grid)
        return self._reference

    def labels(self, mode: Mode) -> Labels:
        """Give the mask of a mode."""
        output = self._run(mode, self.image)
        return self.engine.finish(self.entry, self._data, output, self._grid)

    def measure(self, mode: Mode, *, repeat: int) -> Measured:
        """Run a mode some times, and compare its mask with the reference's."""
        reference = self.reference()
        hardware = self.engine.hardware
        try:
            if hardware.is_card:
                self._run(mode, self.image)  # the first run of a kernel loads it
            hardware.reset_peak()
            seconds = []
            with Utilisation(hardware) as utilisation:
                for _ in range(repeat):
                    began = hardware.now()
                    output = self._run(mode, self.image)
                    seconds.append(hardware.now() - began)
            peak = hardware.peak_bytes()
            labels = self.engine.finish(self.entry, self._data, output, self._grid)
        except (EngineOutOfMemory, ModelInvalid) as error:
            problem = error.message
        else:
            return Measured(
                mode=mode,
                seconds=tuple(seconds),
                peak_bytes=peak,
                dice=dice_of(labels, reference),
                voxels={value: int(labels.mask(value).sum()) for value in labels.values},
                is_telling=bool(reference.present_values()),
                utilisation=utilisation.mean,
            )
        hardware.release(is_thorough=True)
        return Measured(mode=mode, problem=problem)

    def _run(self, mode: Mode, image: torch.Tensor) -> torch.Tensor:
        runner = self.engine.runner(self.entry)
        with torch.inference_mode():
            output = runner.run_in(mode, image, lambda _: None)
        if not is_finite(output):
            raise ModelInvalid(
                f"The network gave values that are not numbers in {mode.describe()}.",
                code="network_not_finite",
            )
        return output


@contextmanager
def exact_float32() -> Iterator[None]:
    """Switch TF32 off, which torch lets convolutions use on newer cards, and back again."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch's operations use one thread of the CPU, as on a smaller computer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def dice_of(labels: Labels, reference: Labels) -> dict[int, float]:
    """Give each label's Dice coefficient; 1 where neither mask has a voxel."""
    return {value: dice(labels.mask(value), reference.mask(value)) for value in reference.values}


def dice(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """Give the Dice coefficient of two masks; 1 where both are empty."""
    both = int(np.count_nonzero(one)) + int(np.count_nonzero(other))
    return 2 * int(np.count_nonzero(one & other)) / both if both else 1.0

"""Finds the fastest way of running a network on this device that gives the reference's mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from worker.adapters.engine_monai import windows
from worker.adapters.engine_monai.networks import compile_problem
from worker.adapters.engine_monai.proof import REFERENCE, Measured, Trial
from worker.model_memory import MEASURED, Mode, ModelMemory, Remembered

# A mode must gain more than runs differ by themselves.
_LEAST_GAIN = 0.02

Change = Callable[[Mode], Mode]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was tried, in order, and the best of what agrees."""

    tried: tuple[Measured, ...]
    best: Measured
    left_out: tuple[str, ...]

    @property
    def reference(self) -> Measured:
        """The first that was tried."""
        return self.tried[0]


def search(
    trial: Trial,
    *,
    repeat: int,
    with_compile: bool = False,
    on_measured: Callable[[Measured], None] = lambda _: None,
) -> Found:
    """Change one thing at a time, and keep each change that agrees and gains.

    Parameters
    ----------
    repeat : int
        Runs of each mode; their median counts.
    with_compile : bool
        Try ``torch.compile``, too, which takes minutes to compile.
    on_measured : callable
        Told of each mode as it is measured.
    """
    tried = [trial.measure(REFERENCE, repeat=repeat)]
    on_measured(tried[0])
    best, left_out = tried[0], []
    for change in _changes(trial, with_compile=with_compile):
        mode = change(best.mode)
        if mode == best.mode or any(mode == one.mode for one in tried):
            continue
        if not trial.can(mode):
            left_out.append(mode.describe())
            continue
        measured = trial.measure(mode, repeat=repeat)
        on_measured(measured)
        tried.append(measured)
        if measured.agrees and measured.median_s < best.median_s * (1 - _LEAST_GAIN):
            best = measured
    return Found(tried=tuple(tried), best=best, left_out=(*left_out, *_why_not_compiled(trial)))


def keep(found: Found, trial: Trial, known: ModelMemory) -> Remembered:
    """Remember the best mode for this model, device and class of volumes."""
    item = Remembered(
        where=trial.engine.runner(trial.entry).where(trial.image),
        mode=found.best.mode,
        reason=MEASURED,
        evidence={
            "seconds": round(found.best.median_s, 4),
            "reference_seconds": round(found.reference.median_s, 4),
            "least_dice": round(found.best.least_dice, 6),
            "peak_bytes": found.best.peak_bytes,
            "shape": list(trial.image.shape[1:]),
            "date": datetime.now(UTC).date().isoformat(),
        },
    )
    known.keep(item)
    return item


def _changes(trial: Trial, *, with_compile: bool) -> Iterator[Change]:
    yield lambda mode: replace(mode, precision="fp16")
    # bfloat16 loses small structures, so it is for networks that overflow in fp16.
    yield lambda mode: replace(mode, precision="bf16") if mode.precision == "float32" else mode
    yield lambda mode: replace(mode, layout="channels_last_3d")
    inferer: Any = trial.engine.parts(trial.entry).inferer
    shape = tuple(int(size) for size in trial.image.shape[1:])
    if not windows.is_one_window(inferer, shape):
        for batch in _batches(windows.count_windows(inferer, shape), int(inferer.sw_batch_size)):
            yield lambda mode, batch=batch: replace(mode, window_batch=batch)  # type: ignore[misc]
        yield lambda mode: replace(mode, is_one_pass=True, window_batch=None)
    if with_compile:
        yield lambda mode: replace(mode, is_compiled=True)


def _batches(count: int, own: int) -> list[int]:
    """Give numbers of windows at once: powers of two up to all of them, but the model's own."""
    powers = [2**power for power in range(5) if 2**power <= count]
    return [batch for batch in powers if batch != own]


def _why_not_compiled(trial: Trial) -> tuple[str, ...]:
    problem = compile_problem(trial.engine.hardware)
    return () if problem is None else (problem,)

"""``mri-worker models verify`` and ``bench``: is a mask the same however it is made, and how fast.

Both compare with one reference: contiguous float32 on the model's own windows.
"""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.catalogue import ModelEntry, find_model
from worker.cli import config_option, json_option, read_settings
from worker.core.errors import ModelInvalid
from worker.language import said
from worker.model_memory import ModelMemory, Remembered
from worker.model_samples import Sample, Shape, find_sample, resized
from worker.settings import Settings
from worker.spoken_help import say

if TYPE_CHECKING:
    from worker.adapters.engine_monai import MonaiEngine
    from worker.adapters.engine_monai.proof import Measured, Trial
    from worker.adapters.engine_monai.search import Found

_SMALL: Shape = (64, 64, 48)
_USUAL: Shape = (240, 240, 155)

volume_option = click.option(
    "--volume",
    "volumes",
    multiple=True,
    metavar="PATH",
    help="NIfTI file or DICOM folder of one channel; once for each, in order.",
)
device_option = click.option("--device", help="Instead of inference.device.")


@click.command("verify")
@click.argument("name", required=False)
@volume_option
@device_option
@config_option
@json_option
def verify_model(
    name: str | None,
    volumes: tuple[str, ...],
    device: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Check that a model gives the mask of contiguous float32 in the way that it is run here.

    Its pin, weights and labels are checked, too, and that two runs give one mask. It is refused
    where a segment's Dice is under 0.999. Without --volume the sample in the bundle is taken.
    """
    settings = read_settings(config)
    entry = find_model(settings, name)
    engine = make_engine(settings, device)
    sample = find_sample(entry, volumes, _SMALL)
    first, seconds = _timed(engine, entry, sample)
    second, _ = _timed(engine, entry, sample)
    if not (first.array == second.array).all():
        raise ModelInvalid(f"The model {entry.name!r} gave two masks for the same image.")
    trial = make_trial(engine, entry, sample)
    proof = _Proof(trial, first, sample)
    body = described(entry) | {
        "device": engine.device,
        "seconds": round(seconds, 2),
        "labels_seen": sorted(first.present_values()),
        **proof.to_json(),
    }
    if as_json:
        click.echo(json.dumps(body, ensure_ascii=False, indent=2))
    else:
        proof.show(seconds)
    proof.check()


class _Proof:
    """How a mask agrees with the reference, and with one thread's where there are several."""

    def __init__(self, trial: Trial, labels: Any, sample: Sample) -> None:
        from worker.adapters.engine_monai.proof import dice_of, one_thread

        self._trial = trial
        self._sample = sample
        self.mode = trial.first_mode()
        reference = trial.reference()
        self._is_telling = bool(reference.present_values()) and not sample.is_made_up
        self._columns = {self.mode.describe(): dice_of(labels, reference)}
        if not trial.engine.hardware.is_card:
            with one_thread():
                alone = trial.labels(self.mode)
            self._columns["1 thread"] = dice_of(alone, reference)

    @property
    def _least(self) -> float:
        return min(
            (dice for column in self._columns.values() for dice in column.values()), default=1
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "mode": self.mode.to_json(),
            "sample": self._sample.source,
            "dice": self._columns,
            "is_proved": self._is_telling,
        }

    def show(self, seconds: float) -> None:
        from worker.model_tables import print_dice

        entry, engine = self._trial.entry, self._trial.engine
        say(f"{entry.name}: {engine.hardware.name}, {self._sample.source} ({seconds:.1f} s)")
        print_dice(entry, self._columns)
        if not self._is_telling:
            say("This proves little: name a case in which the model finds something by --volume.")
        if not engine.hardware.is_card:
            say("Half precision and channels_last_3d work on a GPU only: not checked here.")

    def check(self) -> None:
        from worker.adapters.engine_monai.proof import LEAST_DICE

        name = self._trial.entry.name
        if self._least < LEAST_DICE and not self._sample.is_made_up:
            raise ModelInvalid(
                f"The model {name!r} gives another mask than in float32 (least Dice "
                f"{self._least:.4f} in {self.mode.describe()}): run 'mri-worker models bench "
                f"{name}', or set amp: off under models.{name}.options in config.yaml.",
                code="model_inaccurate",
            )


@click.command("bench")
@click.argument("name", required=False)
@click.option("--shape", help="Columns x rows x slices; else those of the volume, or 240x240x155.")
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1, 100))
@click.option("--with-compile", is_flag=True, help="Try torch.compile, too, which takes minutes.")
@click.option(
    "--forget", is_flag=True, help="Forget what was found; without a name, of all models."
)
@volume_option
@device_option
@config_option
@json_option
def bench_model(
    name: str | None,
    shape: str | None,
    repeat: int,
    with_compile: bool,
    forget: bool,
    volumes: tuple[str, ...],
    device: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Find the fastest way to run a model here that gives the mask of float32, and keep it.

    Precision, memory layout, windows at once and one pass are tried, one after the other.
    """
    settings = read_settings(config)
    known = ModelMemory(settings.worker.work_dir)
    if forget:
        _forget(settings, name, known, as_json=as_json)
        return
    entry = find_model(settings, name)
    engine = make_engine(settings, device)
    wanted = None if shape is None else _read_shape(shape)
    sample = _sized(find_sample(entry, volumes, wanted or _USUAL), wanted)
    started = time.perf_counter()
    engine.load(entry)
    load_s = time.perf_counter() - started
    trial = make_trial(engine, entry, sample)
    found = _search(trial, repeat=repeat, with_compile=with_compile)
    item = _keep(found, trial, known)
    seconds = [_timed(engine, entry, sample)[1] for _ in range(repeat)]
    body = described(entry) | {
        "device": engine.device,
        "hardware": engine.hardware.name,
        "shape": list(sample.shape),
        "load_s": round(load_s, 3),
        "segment_s": round(statistics.median(seconds), 3),
        "segment_s_all": [round(value, 3) for value in seconds],
        "tried": [_as_json(measured) for measured in found.tried],
        "left_out": list(found.left_out),
        "kept": item.to_json(),
        "roofline": _roofline(trial, found.best),
    }
    if as_json:
        click.echo(json.dumps(body, ensure_ascii=False, indent=2))
    else:
        _show(body, found, sample)


def _search(trial: Trial, *, repeat: int, with_compile: bool) -> Found:
    from worker.adapters.engine_monai.search import search

    return search(trial, repeat=repeat, with_compile=with_compile)


def _keep(found: Found, trial: Trial, known: ModelMemory) -> Remembered:
    from worker.adapters.engine_monai.search import keep

    if found.reference.problem:
        raise ModelInvalid(found.reference.problem)
    return keep(found, trial, known)


def _roofline(trial: Trial, best: Measured) -> dict[str, Any]:
    from worker.adapters.engine_monai.roofline import count_work, roofline

    hardware, parts = trial.engine.hardware, trial.engine.parts(trial.entry)
    work = count_work(parts, trial.image, best.mode, hardware)
    limits = roofline(work, best.median_s, best.mode.precision, hardware)
    return {
        "gflop": round(work.flops / 1e9, 3),
        "values_moved": work.values,
        "matrix_gflop_per_s": round(limits.flops_per_s / 1e9, 1),
        "copy_gb_per_s": round(limits.bytes_per_s / 1e9, 2),
        "least_s": round(limits.least_s, 4),
        "share": round(limits.share, 3),
    }


def _as_json(measured: Measured) -> dict[str, Any]:
    return {
        "mode": measured.mode.to_json(),
        "seconds": [round(value, 4) for value in measured.seconds],
        "peak_bytes": measured.peak_bytes,
        "dice": {str(value): round(dice, 6) for value, dice in measured.dice.items()},
        "agrees": measured.agrees,
        "utilisation": measured.utilisation,
        "problem": measured.problem,
    }


def _show(body: Mapping[str, Any], found: Found, sample: Sample) -> None:
    from worker.model_tables import print_modes, print_roofline

    shape = "x".join(map(str, body["shape"]))
    say(f"{body['name']}: {body['hardware']}, {sample.source} ({shape})")
    print_modes(found)
    print_roofline(body["roofline"])
    if found.left_out:
        say(f"Not tried on this device: {'; '.join(found.left_out)}.")
    say(
        f"Kept: {said(found.best.mode.describe())}; load {body['load_s']:.2f} s, segment "
        f"{body['segment_s']:.2f} s."
    )


def _forget(settings: Settings, name: str | None, known: ModelMemory, *, as_json: bool) -> None:
    sha256 = None if name is None else find_model(settings, name).sha256
    count = known.forget(sha256)
    if as_json:
        click.echo(json.dumps({"forgotten": count}))
    else:
        say(f"Forgotten: {count}.")


def make_engine(settings: Settings, device: str | None) -> MonaiEngine:
    """Make an engine as the worker's child does."""
    from worker.adapters.engine_monai import MonaiEngine

    silence_libraries()
    return MonaiEngine(
        device or settings.inference.device,
        threshold=settings.inference.threshold,
        known=ModelMemory(settings.worker.work_dir),
    )


def make_trial(engine: MonaiEngine, entry: ModelEntry, sample: Sample) -> Trial:
    """Prepare a sample."""
    from worker.adapters.engine_monai.proof import Trial

    return Trial(engine, entry, sample.channels, sample.affine_ras)


def silence_libraries() -> None:
    """Let libraries' warnings of a made-up image, that nobody can act on, go nowhere."""
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(logging.NullHandler())


def described(entry: ModelEntry) -> dict[str, Any]:
    """Give what a model is, as `--json` shows it."""
    return {
        "name": entry.name,
        "version": entry.version,
        "sha256": entry.sha256,
        "format": entry.format,
        "channels": list(entry.channels),
        "segments": [f"{spec.label_value} {spec.label}" for spec in entry.segments],
        "intended_use": entry.intended_use,
    }


def modes_of(known: ModelMemory, sha256: str) -> Sequence[Remembered]:
    """Give what is remembered of one model."""
    return [item for item in known.entries() if item.where.model_sha256 == sha256]


def _timed(engine: MonaiEngine, entry: ModelEntry, sample: Sample) -> tuple[Any, float]:
    started = time.perf_counter()
    labels = engine.segment(entry, sample.channels, sample.affine_ras, lambda _: None)
    return labels, time.perf_counter() - started


def _sized(sample: Sample, wanted: Shape | None) -> Sample:
    return sample if wanted in (None, sample.shape) else resized(sample, wanted)


def _read_shape(text: str) -> Shape:
    try:
        i, j, k = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise click.BadParameter(said("expected something like 240x240x155")) from None
    if min(i, j, k) < 8:
        raise click.BadParameter(said("expected at least 8 voxels along each axis"))
    return (i, j, k)

"""``mri-worker models``: list, add (look at, agree to, pin), verify and time the models."""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.catalogue import (
    ModelEntry,
    check_codes,
    describe_model,
    find_model,
    missing_codes,
    segments_to_fill_in,
)
from worker.cli import config_option, json_option, read_settings
from worker.core.errors import ModelInvalid, WorkerError
from worker.language import said
from worker.model_pins import check_pin, hash_files, pin_of, read_pins, write_pin
from worker.settings import ModelSettings, Settings
from worker.spoken_help import say

if TYPE_CHECKING:
    from worker.adapters.engine_monai import MonaiEngine

_NOT_ADDED = "not added"


@click.group()
def models() -> None:
    """The segmentation models of this worker."""


@models.command("list")
@config_option
@json_option
def list_models(config: Path | None, as_json: bool) -> None:
    """Show every model of config.yaml and whether it may run."""
    settings = read_settings(config)
    rows = [_row(settings, name) for name in settings.models]
    if as_json:
        click.echo(json.dumps({"models": rows}, ensure_ascii=False, indent=2))
        return
    for row in rows:
        mark = "*" if row["is_default"] else " "
        click.echo(f"{mark} {row['name']}  {row['version']}  {said(row['state'])}")
        say(f"    channels: {', '.join(row['channels']) or '?'}")
        say(f"    segments: {', '.join(row['segments']) or '?'}")
        if row["problem"]:
            click.echo(f"    {said(row['problem'])}")


@models.command("add")
@click.argument("model")
@click.option("--name", help="Name in config.yaml of the model at a PATH.")
@config_option
@json_option
def add_model(model: str, name: str | None, config: Path | None, as_json: bool) -> None:
    """Check MODEL, a name in config.yaml or a path, and agree to run exactly these files.

    A model is a program: add only what you trust. It is loaded here, each label it can give must
    have a code, and its SHA-256 is written into models.lock.json. Add it again after a change.
    """
    settings = read_settings(config)
    chosen = _chosen(settings, model, name)
    files = hash_files(chosen.path)
    entry = describe_model(chosen, files=files)
    missing = missing_codes(entry, _labels_it_gives(entry))
    if missing:
        is_new = chosen.name not in settings.models
        _refuse_without_codes(entry, missing, is_new=is_new, as_json=as_json)
    place = write_pin(settings.config_path, chosen.name, pin_of(entry.version, files))
    body = _described(entry) | {"files": len(files), "pinned_in": str(place)}
    if as_json:
        click.echo(json.dumps(body, ensure_ascii=False, indent=2))
        return
    say(f"Added {entry.name} {entry.version} ({len(files)} files, sha256 {entry.sha256}).")
    for warning in entry.warnings:
        say(f"Note: {warning}")
    if chosen.name not in settings.models or settings.models[chosen.name].path != chosen.path:
        say(f"Put it into config.yaml: models: {{{chosen.name}: {{path: {chosen.path}}}}}")


@models.command("verify")
@click.argument("name", required=False)
@config_option
@json_option
def verify_model(name: str | None, config: Path | None, as_json: bool) -> None:
    """Run a model twice on a synthetic image: pin, weights, labels, same mask both times."""
    settings = read_settings(config)
    entry = find_model(settings, name)
    engine = _engine(settings)
    first, seconds = _run_synthetic(engine, entry, (64, 64, 48))
    second, _ = _run_synthetic(engine, entry, (64, 64, 48))
    if not (first.array == second.array).all():
        raise ModelInvalid(f"The model {entry.name!r} gave two masks for the same image.")
    body = _described(entry) | {
        "device": engine.device,
        "seconds": round(seconds, 2),
        "labels_seen": sorted(first.present_values()),
    }
    _echo(body, as_json, f"{entry.name}: ok on {engine.device} ({seconds:.1f} s)")


@models.command("bench")
@click.argument("name", required=False)
@click.option("--shape", default="240x240x155", show_default=True, help="Columns x rows x slices.")
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1, 100))
@config_option
@json_option
def bench_model(
    name: str | None,
    shape: str,
    repeat: int,
    config: Path | None,
    as_json: bool,
) -> None:
    """Time loading a model and segmenting a synthetic image: the median of some runs."""
    settings = read_settings(config)
    entry = find_model(settings, name)
    engine = _engine(settings)
    size = _read_shape(shape)
    started = time.perf_counter()
    engine.load(entry)
    load_s = time.perf_counter() - started
    seconds = [_run_synthetic(engine, entry, size)[1] for _ in range(repeat)]
    body = _described(entry) | {
        "device": engine.device,
        "shape": list(size),
        "load_s": round(load_s, 3),
        "segment_s": round(statistics.median(seconds), 3),
        "segment_s_all": [round(value, 3) for value in seconds],
    }
    text = (
        f"{entry.name} on {engine.device}, {shape}: load {load_s:.2f} s, "
        f"segment {body['segment_s']:.2f} s (median of {repeat})"
    )
    _echo(body, as_json, text)


def _row(settings: Settings, name: str) -> dict[str, Any]:
    model = settings.models[name]
    row: dict[str, Any] = {
        "name": name,
        "path": str(model.path),
        "is_default": name == settings.default_model,
        "version": "",
        "channels": [],
        "segments": [],
        "state": "missing",
        "problem": "",
    }
    try:
        files = hash_files(model.path)
        entry = describe_model(model, files=files)
        row |= _described(entry) | {"state": _NOT_ADDED}
        check_pin(name, files, read_pins(settings.config_path).get(name))
        check_codes(entry)
        row["state"] = "ready"
    except WorkerError as error:
        row["problem"] = error.message
        row["state"] = _STATES.get(error.code, row["state"])
    return row


_STATES = {
    "model_not_added": _NOT_ADDED,
    "model_changed": "changed",
    "model_without_codes": "without codes",
    "model_invalid": "invalid",
}


def _described(entry: ModelEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "version": entry.version,
        "sha256": entry.sha256,
        "format": entry.format,
        "channels": list(entry.channels),
        "segments": [f"{spec.label_value} {spec.label}" for spec in entry.segments],
        "intended_use": entry.intended_use,
    }


def _chosen(settings: Settings, model: str, name: str | None) -> ModelSettings:
    if model in settings.models and name is None:
        return settings.models[model]
    path = Path(model).expanduser().resolve()
    if not path.exists():
        known = ", ".join(settings.models) or "none"
        raise ModelInvalid(
            f"{model!r} is neither a model of config.yaml ({known}) nor a path that exists.",
            code="model_unknown",
        )
    chosen_name = name or _name_of(settings, path)
    known_model = settings.models.get(chosen_name)
    return (
        replace(known_model, path=path)
        if known_model
        else ModelSettings(name=chosen_name, path=path)
    )


def _name_of(settings: Settings, path: Path) -> str:
    for name, model in settings.models.items():
        if model.path.resolve() == path:
            return name
    return path.stem


def _labels_it_gives(entry: ModelEntry) -> Mapping[int, str]:
    from worker.adapters.engine_monai.label_probe import labels_it_gives

    _silence_libraries()
    return labels_it_gives(entry)


def _refuse_without_codes(
    entry: ModelEntry, missing: Mapping[int, str], *, is_new: bool, as_json: bool
) -> None:
    say(
        f"# Fill in the codes under models.{entry.name} in config.yaml "
        "(https://browser.ihtsdotools.org has them). The names are those of the\n"
        "# network's outputs: where one region lies in another, the outer one's label is what "
        "remains of it.",
        err=as_json,
    )
    block = segments_to_fill_in(entry.name, missing, entry.path if is_new else None)
    click.echo(block, err=as_json)
    raise ModelInvalid(
        f"The model {entry.name!r} was not added: {len(missing)} of its labels have no code.",
        code="model_without_codes",
    )


def _silence_libraries() -> None:
    # A made-up image makes transforms warn (of a constant one, say): nothing a person can act on.
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(logging.NullHandler())


def _engine(settings: Settings) -> MonaiEngine:
    from worker.adapters.engine_monai import MonaiEngine

    _silence_libraries()
    return MonaiEngine(settings.inference.device, threshold=settings.inference.threshold)


def _run_synthetic(
    engine: MonaiEngine, entry: ModelEntry, shape: tuple[int, int, int]
) -> tuple[Any, float]:
    import numpy as np

    generator = np.random.default_rng(0)
    channels = generator.random((len(entry.channels), *shape), dtype=np.float32)
    channels[:, : shape[0] // 8] = 0  # some air, as every head MRI has
    started = time.perf_counter()
    labels = engine.segment(entry, channels, np.diag([1.0, 1.0, 1.0, 1.0]), lambda _: None)
    return labels, time.perf_counter() - started


def _read_shape(text: str) -> tuple[int, int, int]:
    try:
        i, j, k = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise click.BadParameter(said("expected something like 240x240x155")) from None
    if min(i, j, k) < 8:
        raise click.BadParameter(said("expected at least 8 voxels along each axis"))
    return (i, j, k)


def _echo(body: Mapping[str, Any], as_json: bool, text: str) -> None:
    click.echo(json.dumps(body, ensure_ascii=False, indent=2) if as_json else said(text))

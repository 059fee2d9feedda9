"""``mri-worker models``: list, add (look at, agree to, pin), verify and time the models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from worker.catalogue import (
    ModelEntry,
    check_codes,
    describe_model,
    missing_codes,
    segments_to_fill_in,
)
from worker.cli import config_option, json_option, read_settings
from worker.core.errors import ModelInvalid, WorkerError
from worker.language import named, said
from worker.model_measuring import (
    bench_model,
    described,
    modes_of,
    silence_libraries,
    verify_model,
)
from worker.model_memory import ModelMemory
from worker.model_pins import check_pin, hash_files, pin_of, read_pins, write_pin
from worker.settings import ModelSettings, Settings
from worker.spoken_help import say

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
        click.echo(f"{mark} {row['name']}  {row['version']}  {named('state', row['state'])}")
        say(f"    channels: {', '.join(row['channels']) or '?'}")
        say(f"    segments: {', '.join(row['segments']) or '?'}")
        for mode in row["modes"]:
            say(f"    runs here: {mode}")
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
    body = described(entry) | {"files": len(files), "pinned_in": str(place)}
    if as_json:
        click.echo(json.dumps(body, ensure_ascii=False, indent=2))
        return
    say(f"Added {entry.name} {entry.version} ({len(files)} files, sha256 {entry.sha256}).")
    for warning in entry.warnings:
        say(f"Note: {warning}")
    if chosen.name not in settings.models or settings.models[chosen.name].path != chosen.path:
        say(f"Put it into config.yaml: models: {{{chosen.name}: {{path: {chosen.path}}}}}")


models.add_command(verify_model)
models.add_command(bench_model)


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
        "modes": [],
    }
    try:
        files = hash_files(model.path)
        entry = describe_model(model, files=files)
        row |= described(entry) | {"state": _NOT_ADDED, "modes": _modes(settings, entry)}
        check_pin(name, files, read_pins(settings.config_path).get(name))
        check_codes(entry)
        row["state"] = "ready"
    except WorkerError as error:
        row["problem"] = error.message
        row["state"] = _STATES.get(error.code, row["state"])
    return row


def _modes(settings: Settings, entry: ModelEntry) -> list[str]:
    """Say what `models bench`, or memory that ran out, taught about running a model."""
    known = modes_of(ModelMemory(settings.worker.work_dir), entry.sha256)
    return [
        f"{item.mode.describe()} ({item.where.device}, {'x'.join(map(str, item.where.shape))})"
        for item in known
    ]


_STATES = {
    "model_not_added": _NOT_ADDED,
    "model_changed": "changed",
    "model_without_codes": "without codes",
    "model_invalid": "invalid",
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

    silence_libraries()
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

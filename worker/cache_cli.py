"""``mri-worker cache``: show and clear the images that are kept for the next request."""

from __future__ import annotations

import json
from pathlib import Path

import click

from worker.adapters.input_cache import CacheState, InputCache
from worker.cli import config_option, json_option, read_settings
from worker.language import said
from worker.spoken_help import say

_work_dir_option = click.option(
    "--work-dir", type=click.Path(path_type=Path), help="Instead of worker.work_dir."
)


@click.group()
def cache() -> None:
    """The images kept for the next request of the same series."""


@cache.command("show")
@config_option
@_work_dir_option
@json_option
def show_cache(config: Path | None, work_dir: Path | None, as_json: bool) -> None:
    """Show how much is kept."""
    found = _open(config, work_dir)
    state = found.state()
    body = {**_body(state), "folder": str(found.folder), "is_on": found.is_on}
    if as_json:
        click.echo(json.dumps(body, ensure_ascii=False))
        return
    off = "" if found.is_on else said(" (off)")
    click.echo(f"{found.folder}: {said(_in_words(state))}{off}")


@cache.command("clear")
@config_option
@_work_dir_option
@json_option
def clear_cache(config: Path | None, work_dir: Path | None, as_json: bool) -> None:
    """Delete all of it; a running worker may go on, and keeps the images of its case."""
    found = _open(config, work_dir)
    gone = found.clear()
    left = found.state().files
    if as_json:
        click.echo(json.dumps({**_body(gone), "left": left}))
    else:
        say(f"Deleted: {_in_words(gone)}")
    if left:
        say(f"Error: {left} could not be deleted: end the worker and try again.", err=True)
        raise SystemExit(1)


def _open(config: Path | None, work_dir: Path | None) -> InputCache:
    settings = read_settings(config)
    folder = settings.worker.work_dir if work_dir is None else work_dir.resolve()
    return InputCache(folder, settings.cache)


def _body(state: CacheState) -> dict[str, float | None]:
    return {"images": state.files, "bytes": state.size_bytes, "oldest_s": state.oldest_s}


def _in_words(state: CacheState) -> str:
    if state.oldest_s is None:
        return "no images"
    hours = state.oldest_s / 3600
    if state.files == 1:
        return f"1 image, {state.size_bytes / 1e6:.1f} MB, {hours:.1f} h old"
    return f"{state.files} images, {state.size_bytes / 1e6:.1f} MB, the oldest {hours:.1f} h old"

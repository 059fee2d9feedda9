"""The `segment` command: the same pipeline as the daemon's, on local folders, without a site."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.table import Table

from worker.adapters.case_process import CaseProcess
from worker.bootstrap import make_runner
from worker.console import BarView
from worker.core.errors import SettingsError
from worker.core.job import ORDER_GIVEN, Case, CaseResult
from worker.language import named, said
from worker.local_series import choose_main, read_arguments
from worker.settings import Settings

_STAGES = ("loading", "inferring", "writing")


def segment_folders(
    settings: Settings,
    folders: Sequence[str],
    *,
    model: str | None,
    out: Path,
    main: str | None,
    order: str = ORDER_GIVEN,
    as_json: bool,
    command: Sequence[str] | None = None,
) -> CaseResult:
    """Segment, and print a table or JSON."""
    case = make_case(settings, folders, model=model, out=out, main=main, order=order)
    runner = make_runner(settings, command)
    try:
        with _ended_by_signals(runner), _progress(as_json=as_json) as report:
            result = runner.run(case, on_progress=report)
    finally:
        runner.close()
    if as_json:
        body = {"out": str(case.output_dir), **result.to_json()}
        click.echo(json.dumps(body, ensure_ascii=False))
    else:
        _print(result, case.output_dir)
    return result


def make_case(
    settings: Settings,
    folders: Sequence[str],
    *,
    model: str | None,
    out: Path,
    main: str | None,
    order: str = ORDER_GIVEN,
) -> Case:
    """Read the arguments into a case, and make its folder."""
    name = model or settings.default_model
    if name not in settings.models:
        known = ", ".join(settings.models) or "none"
        raise SettingsError(
            f"--model {name}: expected a name under models in config.yaml ({known})."
        )
    series = read_arguments(folders)
    main_series = series[choose_main(main, folders)]
    _make_folder(out)
    return Case(
        request_id=_request_id(settings.inference.threshold),
        series=series,
        main_series_id=main_series.series_id,
        model=name,
        output_dir=out.resolve(),
        order=order,
    )


def _request_id(threshold: float | None) -> str:
    # A mask's UIDs are made of it: another threshold gives another mask, so other UIDs.
    return "local" if threshold is None else f"local-threshold-{threshold:g}"


def _make_folder(out: Path) -> None:
    reason: str | None = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            reason = "not writable"
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        raise SettingsError(
            f"--out {out}: expected a folder that this user may make and write ({reason})."
        )


@contextmanager
def _progress(*, as_json: bool) -> Iterator[Callable[[str, float], None]]:
    if as_json or not sys.stderr.isatty():
        yield lambda _stage, _fraction: None
        return
    with BarView(Console(stderr=True), stages=_STAGES) as view:
        yield lambda stage, fraction: view.stage("local", stage, fraction)


@contextmanager
def _ended_by_signals(runner: CaseProcess) -> Iterator[None]:
    """Let SIGTERM end the child, too; Ctrl-C does so by its exception."""

    def end(_number: int, _frame: FrameType | None) -> None:
        runner.kill()
        raise SystemExit(128 + signal.SIGTERM)

    old = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        runner.kill()
        raise
    finally:
        signal.signal(signal.SIGTERM, old)


def _print(result: CaseResult, out: Path) -> None:
    console = Console(highlight=False)
    table = Table(title=f"{result.model.name} {result.model.version}")
    for heading in ("Segment", "Voxels", "mL"):
        table.add_column(
            named("column", heading), justify="left" if heading == "Segment" else "right"
        )
    for segment in result.segments:
        table.add_row(segment.label, f"{segment.voxels:,}", f"{segment.volume_ml:,.2f}")
    console.print(table)
    if not any(segment.voxels for segment in result.segments):
        console.print(said("Nothing was found: the mask is empty, which is a valid result."))
    for warning in result.warnings:
        console.print(said(f"Note: {warning}"), markup=False)
    timings = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.timings.items())
    console.print(
        said(f"{timings or 'done'}; total {result.elapsed_time_seconds:.1f} s"),
        markup=False,
        soft_wrap=True,
    )
    for name in result.artifacts:
        console.print(str(out / name), markup=False, soft_wrap=True)

"""The command line. Imports nothing heavy: `--help` must answer at once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from worker import __version__, language
from worker.language import named, said
from worker.spoken_help import say, spoken

if TYPE_CHECKING:
    from rich.console import Console

    from worker.settings import Settings
    from worker.signals import Stop

_Command = Callable[..., Any]
_DRAIN = "\nEnding: the case in work may still finish; press again to end at once.\n"
_AT_ONCE = "\nEnding at once.\n"


class _Root(click.Group):
    """Knows the groups by name, and imports each only when it is used."""

    _GROUPS: ClassVar = {
        "cache": "Show or clear the images kept for the next request.",
        "models": "List, add, verify and measure models.",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self._GROUPS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._GROUPS:
            return super().get_command(ctx, cmd_name)
        group: click.Group = getattr(import_module(f"worker.{cmd_name}_cli"), cmd_name)
        return spoken(group)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        rows = [
            (name, command.get_short_help_str(70))
            for name, command in self.commands.items()
            if not command.hidden
        ]
        rows.extend((name, said(text)) for name, text in self._GROUPS.items())
        with formatter.section(said("Commands")):
            formatter.write_dl(sorted(rows))


def _set_config(ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path | None:
    root = ctx.find_root()
    if value is not None:
        root.obj = value
    return root.obj if isinstance(root.obj, Path) else None


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_set_config,
    help="Settings to use instead of config.yaml.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


@click.group(cls=_Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", prog_name="mri-worker")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_set_config,
    expose_value=False,
    is_eager=True,
    help="Settings to use instead of config.yaml.",
)
def cli() -> None:
    """Takes MRI segmentation requests from the site and brings the masks back."""


def _worker_options(command: _Command) -> _Command:
    for option in (
        config_option,
        click.option("--work-dir", type=click.Path(path_type=Path), help="Instead of work_dir."),
        click.option("--name", help="How the site shows this worker."),
        click.option("--lane", type=click.Choice(["lab", "cloud"]), help="Which requests to take."),
    ):
        command = option(command)
    return command


@cli.command()
@_worker_options
def run(config: Path | None, lane: str | None, name: str | None, work_dir: Path | None) -> None:
    """Take requests until asked to end (Ctrl-C or SIGTERM)."""
    settings = _load(config, lane=lane, name=name, work_dir=work_dir)
    with _program(settings) as program:
        program.daemon.run()


@cli.command()
@_worker_options
@json_option
def once(
    config: Path | None,
    lane: str | None,
    name: str | None,
    work_dir: Path | None,
    as_json: bool,
) -> None:
    """Take one request, finish it, and end."""
    from worker.casework import Ending
    from worker.core.errors import EXIT_SERVER_UNAVAILABLE
    from worker.delivery import Delivered

    settings = _load(config, lane=lane, name=name, work_dir=work_dir)
    with _program(settings) as program:
        done = program.daemon.once()
    if as_json:
        body: dict[str, Any] = {"request_id": None, "ending": "nothing_waiting"}
        if done is not None:
            body = {"request_id": done.request_id, "ending": done.ending.value}
            body["delivery"] = done.delivery.value if done.delivery else None
            body["result"] = done.result.to_json() if done.result else None
            body["error"] = (
                {"code": done.error.code, "message": done.error.message} if done.error else None
            )
        click.echo(json.dumps(body, ensure_ascii=False))
    elif done is None:
        say("No request was waiting.")
    if done is None:
        return
    if done.ending is Ending.FAILED and done.error is not None:
        if not as_json:
            say(f"Error: {done.error.message}", err=True)
        raise SystemExit(done.error.exit_code)
    if done.delivery in (Delivered.KEPT, Delivered.REFUSED):
        if not as_json:
            say("Error: the mask is finished and kept; the site did not take it.", err=True)
        raise SystemExit(EXIT_SERVER_UNAVAILABLE if done.delivery is Delivered.KEPT else 1)


@cli.command()
@click.argument("dicom_dirs", nargs=-1, required=True, metavar="DICOM_DIR...")
@click.option("--model", help="A name under models in config.yaml; the default model otherwise.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Result folder."
)
@click.option(
    "--main", help="The series on whose grid the mask lies: its number from 1, or its DICOM_DIR."
)
@click.option(
    "--order",
    type=click.Choice(["given", "auto"]),
    default="given",
    help="auto: sort the series over the network's channels by their headers.",
)
@config_option
@json_option
def segment(
    dicom_dirs: tuple[str, ...],
    model: str | None,
    out: Path,
    main: str | None,
    order: str,
    config: Path | None,
    as_json: bool,
) -> None:
    """Segment local DICOM folders, without a site.

    Each DICOM_DIR holds one series (DIR#N picks the series with Series Number N from a folder of
    several); their order is the order of the network's channels.
    """
    from worker.segment_command import segment_folders

    settings = _load(config)
    _log_quietly(settings)
    segment_folders(
        settings, dicom_dirs, model=model, out=out, main=main, order=order, as_json=as_json
    )


@cli.command()
@config_option
@json_option
def doctor(config: Path | None, as_json: bool) -> None:
    """Check everything this worker needs and say what to do."""
    from worker.doctor import exit_code_of, run_checks

    checks = []
    for check in run_checks(config):
        checks.append(check)
        if not as_json:
            verdict = named("verdict", check.verdict.value)
            name = named("check", check.name)
            click.echo(f"{verdict:<4}  {name}: {said(check.found)}")
            if check.advice:
                click.echo(f"      -> {said(check.advice)}")
    code = exit_code_of(checks)
    if as_json:
        body = {"ok": code == 0, "checks": [check.to_json() for check in checks]}
        click.echo(json.dumps(body, ensure_ascii=False))
    raise SystemExit(code)


def read_settings(config: Path | None) -> Settings:
    """Read the settings, and speak the language that they name from now on."""
    from worker.settings import load_settings

    settings = load_settings(config)
    language.use(language.choose(settings.log.language))
    return settings


def _load(config: Path | None, **changes: Any) -> Settings:
    from dataclasses import replace

    settings = read_settings(config)
    wanted = {key: value for key, value in changes.items() if value is not None}
    if "work_dir" in wanted:
        wanted["work_dir"] = wanted["work_dir"].resolve()
    return replace(settings, worker=replace(settings.worker, **wanted)) if wanted else settings


def _log_quietly(settings: Settings) -> None:
    from worker import log

    log.configure(settings.log, worker=settings.worker.name, quiet=True)


@contextmanager
def _program(settings: Settings) -> Iterator[Any]:
    """Give a wired program, with its log, its progress bar and its signals."""
    from worker import log
    from worker.bootstrap import build
    from worker.console import BarView, PlainView
    from worker.signals import Stop, handled

    console = _terminal()
    log.configure(settings.log, worker=settings.worker.name, console=console)
    stop = Stop(drain_s=settings.worker.drain_s)
    with handled(stop, on_signal=lambda: _say_ending(stop)):
        if console is None:
            program = build(settings, stop=stop, view=PlainView())
            try:
                yield program
            finally:
                program.close()
            return
        with BarView(console, is_waiting_shown=True) as view:
            program = build(settings, stop=stop, view=view)
            try:
                yield program
            finally:
                program.close()


def _terminal() -> Console | None:
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    return Console(stderr=True)


def _say_ending(stop: Stop) -> None:
    # Straight to the descriptor: a buffered stream must not be entered twice by a signal handler.
    os.write(2, said(_AT_ONCE if stop.is_over() else _DRAIN).encode())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and give its exit code; no one is shown a stack trace."""
    from worker.core.errors import WorkerError

    _use_utf8()
    language.use(language.choose())
    try:
        spoken(cli).main(arguments, prog_name="mri-worker", standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        say("Ended from the keyboard; nothing more was written.", err=True)
        return 130
    except WorkerError as error:
        click.echo(said("Error: {0}").replace("{0}", said(error.message)), err=True)
        if "--json" in (sys.argv[1:] if arguments is None else arguments):
            body = {"error": {"code": error.code, "message": error.message}}
            click.echo(json.dumps(body, ensure_ascii=False))
        return error.exit_code
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BrokenPipeError:
        # The reader of our output has gone; keep the interpreter from complaining at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        say(_unexpected(error), err=True)
        return 1
    return 0


def _use_utf8() -> None:
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # A Windows console speaks a code page by default; elsewhere the locale is right.
            options = {"encoding": "utf-8"} if os.name == "nt" else {}
            reconfigure(errors="replace", **options)


def _unexpected(error: Exception) -> str:
    """Keep the stack trace in the log and give the sentence for the person."""
    import logging
    import tempfile
    import traceback

    files = [h for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler)]
    if files:
        for other in set(logging.getLogger().handlers) - set(files):
            logging.getLogger().removeHandler(other)
        logging.getLogger(__name__).error("unexpected_error", exc_info=error)
        path = files[0].baseFilename
    else:
        path = str(Path(tempfile.gettempdir()) / "mri-worker-error.log")
        text = "".join(traceback.format_exception(error))
        Path(path).write_text(text, encoding="utf-8")
    return f"Error: the worker failed unexpectedly ({type(error).__name__}); see {path}."

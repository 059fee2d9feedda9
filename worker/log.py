"""Logging: constant event names with fields, one line each, in a file that is rotated.

``2026-11-20 20:08:47 INFO    case_finished request_id=... model=... total_s=12.3``, or with
``log.format: json`` one object per line. There every line of a case, from whichever thread, has its
``request_id`` and ``attempt``, and every line has ``worker``.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from copy import copy
from logging.handlers import RotatingFileHandler
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from worker.core.errors import SettingsError
from worker.language import ENGLISH, current, named, said
from worker.settings import LogSettings

if TYPE_CHECKING:
    from rich.console import Console

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_HOLE = re.compile(r"\{(\w+)\}")
# Libraries whose own lines would drown ours, or might show what a file holds.
_QUIET = ("urllib3", "requests", "pydicom")

_Fields = Mapping[str, Any]
_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")
# What the lines of this thread are about; `carried` takes it along to another.
_about: ContextVar[_Fields] = ContextVar("about", default=MappingProxyType({}))


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Give the lines of this thread these fields while the block runs, such as its case's."""
    token = _about.set(fields)
    try:
        yield
    finally:
        _about.reset(token)


def carried(call: Callable[_Given, _Answer]) -> Callable[_Given, _Answer]:
    """Give a call that another thread makes with the fields of this one."""
    context = copy_context()

    def run(*args: _Given.args, **options: _Given.kwargs) -> _Answer:
        return context.run(call, *args, **options)

    return run


class EventFormatter(logging.Formatter):
    """Event name, then its fields as ``key=value``; a value never breaks the line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Give the line."""
        fields = [
            f"{key}={_value(value)}" for key, value in vars(record).items() if key not in _OWN
        ]
        return " ".join([super().formatMessage(record), *fields])


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
    text = str(value)
    is_plain = text and text.isprintable() and not any(char in text for char in ' "=')
    return text if is_plain else repr(text)


class SpokenFormatter(EventFormatter):
    """For a reader of another language: what happened in a sentence, then the line as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Give the line; the event's name stays in it, since that is what one searches for."""
        event, shown, fields = record.getMessage(), copy(record), vars(record)
        for key, value in fields.items():
            if key not in _OWN and isinstance(value, str):
                setattr(shown, key, said(value))
        sentence = _HOLE.sub(
            lambda hole: named(hole[1], str(fields.get(hole[1], ""))), named("event", event)
        )
        shown.levelname = named("level", record.levelname)
        shown.message = event if sentence == event else f"{sentence} {event}"
        return super().formatMessage(shown)


def json_formatter(worker: str) -> logging.Formatter:
    """Make the formatter of one JSON object per line.

    Parameters
    ----------
    worker : str
        The name that each line bears.
    """
    from pythonjsonlogger.json import JsonFormatter

    class CaseJsonFormatter(JsonFormatter):
        def process_log_record(self, log_record: dict[str, Any]) -> dict[str, Any]:
            return {"worker": worker, **_about.get(), **log_record}

    return CaseJsonFormatter(
        "%(levelname)s %(name)s %(threadName)s %(message)s",
        rename_fields={
            "levelname": "level",
            "name": "logger",
            "threadName": "thread",
            "message": "event",
        },
        timestamp="time",
        json_ensure_ascii=False,
    )


class _ConsoleHandler(logging.Handler):
    """Prints above a progress bar instead of through it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        style = "red" if record.levelno >= logging.ERROR else None
        try:
            text = self.format(record)
            self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
        except Exception:
            self.handleError(record)


class _LogFile(RotatingFileHandler):
    """A file that says once, on standard error, that it can't be written, such as on a full disk.

    What it could not take is on the console all the same.
    """

    _has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._has_failed:
            self._has_failed = True
            text = said(f"The log {self.baseFilename} can't be written ({error.strerror}).")
            os.write(2, f"{text}\n".encode())


def configure(
    settings: LogSettings,
    *,
    worker: str = "",
    console: Console | None = None,
    quiet: bool = False,
) -> None:
    """Log into the file, and onto the console.

    Parameters
    ----------
    settings : LogSettings
    worker : str
        This worker's name, in each line of JSON.
    console : Console, optional
        A terminal with a progress bar; else plain lines go to standard error.
    quiet : bool
        Nothing below a warning on the console.

    Raises
    ------
    SettingsError
        The file can't be written.
    """
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    file = _file_handler(settings)
    shown: logging.Handler = (
        _ConsoleHandler(console) if console is not None else logging.StreamHandler(sys.stderr)
    )
    level = logging.getLevelName(settings.level.upper())
    shown.setLevel(logging.WARNING if quiet else level)
    is_json = settings.format == "json"
    for handler in (file, shown):
        # A person at a terminal reads lines, whatever the file's readers want.
        is_for_program = is_json and not isinstance(handler, _ConsoleHandler)
        handler.setFormatter(
            json_formatter(worker) if is_for_program else _line_formatter(handler is shown)
        )
        root.addHandler(handler)
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _line_formatter(is_shown: bool) -> logging.Formatter:
    # The file is what is sent to whoever helps: it stays as it is in every language.
    return SpokenFormatter() if is_shown and current() != ENGLISH else EventFormatter()


def _file_handler(settings: LogSettings) -> logging.Handler:
    try:
        settings.file.parent.mkdir(parents=True, exist_ok=True)
        return _LogFile(
            settings.file,
            maxBytes=settings.max_bytes,
            backupCount=settings.backups,
            encoding="utf-8",
        )
    except OSError as error:
        raise SettingsError(
            f"The log {settings.file} can't be written ({error.strerror}): give this user the "
            "right to write there, or change worker.work_dir or log.file."
        ) from error

"""Logging: constant event names with fields, one line each, in a file that is rotated.

``2026-11-20 20:08:47 INFO    case_finished request_id=... model=... total_s=12.3``
"""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING, Any

from worker.core.errors import SettingsError
from worker.settings import LogSettings

if TYPE_CHECKING:
    from rich.console import Console

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# Libraries whose own lines would drown ours, or might show what a file holds.
_QUIET = ("urllib3", "requests", "pydicom")


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


def configure(
    settings: LogSettings, *, console: Console | None = None, quiet: bool = False
) -> None:
    """Log into the file, and onto the console.

    Parameters
    ----------
    settings : LogSettings
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
    for handler in (file, shown):
        handler.setFormatter(EventFormatter())
        root.addHandler(handler)
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _file_handler(settings: LogSettings) -> logging.Handler:
    try:
        settings.file.parent.mkdir(parents=True, exist_ok=True)
        return RotatingFileHandler(
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

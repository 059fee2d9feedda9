"""Keeps pydicom and highdicom from quoting header values, which can be a patient's, into logs."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("pydicom", "highdicom")


class _Nesting(threading.local):
    depth = 0


_nesting = _Nesting()


@contextmanager
def without_quotes() -> Iterator[None]:
    """Drop what the DICOM libraries warn and log of; what matters is checked and raised by us."""
    # A series is read in one, its files in many: only the outermost sets what all share.
    _nesting.depth += 1
    try:
        if _nesting.depth > 1:
            yield
        else:
            with _silenced():
                yield
    finally:
        _nesting.depth -= 1


@contextmanager
def _silenced() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

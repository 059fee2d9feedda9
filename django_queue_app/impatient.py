"""Writes that may wait for the next call: when a token or a worker was last heard of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db import OperationalError, connection

logger = logging.getLogger(__name__)


def write_unless_busy(write: Callable[[], object]) -> bool:
    """Write something that nobody's work depends on; tell whether it was written.

    SQLite has one writer at a time. A call that only notes a time must not queue for it: a burst
    of polls would wait behind each other for seconds.
    """
    try:
        with _without_waiting():
            write()
    except OperationalError:
        if connection.vendor != "sqlite":
            raise
        logger.debug("write_left_for_later")
        return False
    return True


@contextmanager
def _without_waiting() -> Iterator[None]:
    """Let SQLite say at once that another one writes."""
    if connection.vendor != "sqlite":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        (wait_ms,) = cursor.fetchone()
        cursor.execute("PRAGMA busy_timeout = 0")
        try:
            yield
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {wait_ms}")

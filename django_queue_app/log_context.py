"""What every log line of a call says beside its message: which request, attempt and worker.

The facts are bound where they become known and stay for the rest of the call; `ContextFilter`
writes them into each record, whichever module logs it. Never patient data.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import uuid4

FIELDS = ("call_id", "request_id", "attempt", "worker", "user")

_facts: ContextVar[dict[str, Any] | None] = ContextVar("segmentation_log_facts", default=None)


@contextmanager
def of_one_call() -> Iterator[str]:
    """Begin with nothing bound but a new `call_id`, and end with what was bound before."""
    call_id = uuid4().hex
    token = _facts.set({"call_id": call_id})
    try:
        yield call_id
    finally:
        _facts.reset(token)


def bind(**facts: Any) -> None:
    """Add facts about what this call is about; outside of a call nothing is kept."""
    kept = _facts.get()
    if kept is not None:
        kept.update({name: _plain(value) for name, value in facts.items() if value != ""})


def _plain(value: Any) -> int | str:
    return value if isinstance(value, int) else str(value)


class ContextFilter(logging.Filter):
    """Writes the bound facts into a record, but never over what the line itself says."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through."""
        for name, value in (_facts.get() or {}).items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True

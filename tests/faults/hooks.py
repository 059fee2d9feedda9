"""Faults inside the site's own process, switched on by files in its data folder.

`fault` holds `before <state>` or `after <state>`: the process kills itself with SIGKILL when a
request reaches that state, before the commit or after it but before the answer. `clock` holds the
seconds by which the server's clock is wrong.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from django_queue_app import statements

_real_now = timezone.now


class Faults:
    """A middleware only so that it is loaded when Django is ready."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response
        timezone.now = _wrong_now
        statements.ADD_EVENT.write = _dying_at(statements.ADD_EVENT.write)  # type: ignore[method-assign]

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._get_response(request)


def _told(name: str) -> str:
    try:
        return (Path(settings.SEGMENTATION_DATA_DIR) / name).read_text()
    except FileNotFoundError:
        return ""


def _wrong_now() -> datetime:
    return _real_now() + timedelta(seconds=float(_told("clock") or 0))


def _dying_at(write: Callable[..., None]) -> Callable[..., None]:
    """Watch the one place that every change of a request passes, inside its transaction."""

    def watched(*together: Any, **values: Any) -> None:
        write(*together, **values)
        moment, _, state = _told("fault").partition(" ")
        if not moment or state != values["to_status"] or state == values["from_status"]:
            return
        if moment == "before":
            _die()
        transaction.on_commit(_die)

    return watched


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)

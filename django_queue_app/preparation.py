"""Series read from a remote archive ahead of their workers: pseudonymised, digested, kept.

A claim names the digest of every instance, so each has to be read once before. That begins when a
request is filed, in a thread; a claim that comes earlier waits for a while, and if that is not
enough the request is given back unharmed and claimed again later.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from django.db import connections

from django_queue_app import input_cache, served
from django_queue_app.errors import ServiceError
from django_queue_app.models import SegmentationRequest
from django_queue_app.pacs import get_pacs
from django_queue_app.pacs.bounded import Bounded
from django_queue_app.pacs.port import InstanceSummary, SeriesDescription
from django_queue_app.served import Listed
from django_queue_app.signals import request_filed

logger = logging.getLogger(__name__)

# Two series at once keep archive and processor busy; more would only share them.
AT_ONCE = 2
# Filed requests beyond these are prepared when they are claimed.
MOST_WAITING = 8
# How long an archive that can't tell versions is believed to hold what was just read.
GOOD_FOR_S = 600.0
_KEPT_AT_A_TIME = 100

_turns = threading.BoundedSemaphore(AT_ONCE)
_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Instances of one series being read, or read a while ago."""

    ids: frozenset[str]
    started_at: float
    future: Future[Mapping[str, Listed]]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Size and digest of every instance of a series as it will be served, soon or already."""

    known: Mapping[str, Listed]
    run: _Run | None = None

    def result(self, timeout_s: float | None = None) -> Mapping[str, Listed]:
        """Return them by id. Raises TimeoutError, or what reading has raised."""
        if self.run is None:
            return self.known
        return {**self.run.future.result(timeout_s), **self.known}


_runs: Bounded[tuple[Any, ...], _Run] = Bounded(64)


def list_series(series: SeriesDescription) -> Listing:
    """Begin to read what is not known of a series yet."""
    known = served.known_digests(series.instances)
    missing = tuple(one for one in series.instances if one.id not in known)
    return Listing(known=known, run=_join(series, missing) if missing else None)


def _join(series: SeriesDescription, missing: Sequence[InstanceSummary]) -> _Run:
    """Return the run that reads all of these already, or start one."""
    key = _key_of(series)
    ids = frozenset(one.id for one in missing)
    with _lock:
        run = _runs.get(key)
        if run is not None and ids <= run.ids and _is_good(run):
            return run
        run = _Run(ids=ids, started_at=time.monotonic(), future=Future())
        _runs.keep(key, run)
    part = replace(series, instances=tuple(missing))
    threading.Thread(
        target=_read_in_thread, args=(part, run.future), name="prepare", daemon=True
    ).start()
    return run


def _key_of(series: SeriesDescription) -> tuple[Any, ...]:
    held = frozenset((one.id, one.version) for one in series.instances)
    return series.summary.id, served.recipe(), held


def _is_good(run: _Run) -> bool:
    if not run.future.done():
        return True
    is_fresh = time.monotonic() - run.started_at < GOOD_FOR_S
    return is_fresh and run.future.exception() is None


def forget() -> None:
    """Believe nothing that was read earlier."""
    with _lock:
        _runs.clear()


def _read_in_thread(series: SeriesDescription, future: Future[Mapping[str, Listed]]) -> None:
    try:
        with _turns:
            future.set_result(_read(series))
    except Exception as error:
        future.set_exception(error)
    finally:
        connections.close_all()


def _read(series: SeriesDescription) -> Mapping[str, Listed]:
    """Read, pseudonymise and keep; digests are written in lots, so that a break loses little."""
    versions = {one.id: served.content_of(one) for one in series.instances}
    listed: dict[str, Listed] = {}
    lot: list[served.Digested] = []
    for instance_id, original in get_pacs().read_series(series):
        instance = served.serve(original)
        input_cache.keep(instance.sha256, instance.data)
        lot.append(served.Digested(instance_id, versions[instance_id], instance))
        if len(lot) >= _KEPT_AT_A_TIME:
            listed |= served.keep_digests(lot)
            lot = []
    listed |= served.keep_digests(lot)
    input_cache.trim()
    return listed


def _prepare(request_id: UUID) -> None:
    try:
        for series_id in SegmentationRequest.objects.values_list("series_ids", flat=True).get(
            pk=request_id
        ):
            list_series(get_pacs().describe_series(series_id))
    except ServiceError as error:
        # Said to the worker that claims it.
        logger.info("inputs_not_prepared", extra={"request_id": request_id, "code": error.code})
    finally:
        connections.close_all()


def _on_filed(*, request_id: UUID, **_: Any) -> None:
    waiting = sum(thread.name == "prepare" for thread in threading.enumerate())
    if get_pacs().is_remote and waiting < MOST_WAITING:
        threading.Thread(target=_prepare, args=(request_id,), name="prepare", daemon=True).start()


request_filed.connect(_on_filed, dispatch_uid="django_queue_app.preparation.filed")

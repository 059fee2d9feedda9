"""Hands finished work to the site, and keeps it until the site has it.

The rules of the outbox are in one place, `deliver`: delete on 200, 410 and 412; keep on anything
the network or an overloaded site may cause, a file that arrived damaged among it; put aside and
raise the alarm on a refusal.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from enum import StrEnum

from worker.backoff import full_jitter_s
from worker.core.errors import (
    Cancelled,
    DiskFull,
    LeaseLost,
    ResultRefused,
    ServerUnavailable,
    Unauthorized,
    WorkerError,
    WorkerTooOld,
)
from worker.log import about
from worker.outbox import Entry, Failure, Finished, Outbox
from worker.ports import OnFraction, QueueServer

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 300.0
# Refusals that end when a person renews the token or the worker, so they are tried again at start.
CURABLE = frozenset({Unauthorized.code, WorkerTooOld.code})
# The site has not what was sent: damaged on its way, or lost since. Sending it again mends that.
SENT_AGAIN = frozenset({"digest_mismatch", "artifact_missing"})


class Delivered(StrEnum):
    """What became of an entry."""

    ACCEPTED = "accepted"
    REPLAY = "replay"
    SUPERSEDED = "superseded"
    REPORTED = "reported"
    NOT_WANTED = "not_wanted"
    KEPT = "kept"
    REFUSED = "refused"


_TAKEN = {item.value: item for item in (Delivered.REPLAY, Delivered.SUPERSEDED)}


def deliver(
    outbox: Outbox,
    server: QueueServer,
    entry: Entry,
    end: Finished | Failure,
    *,
    on_progress: OnFraction | None = None,
) -> Delivered:
    """Deliver one entry, and delete, keep or put it aside.

    Raises
    ------
    nothing of `core.errors`
        Each of them has its place in the outcome.
    """
    try:
        outcome = _send(server, entry, end, on_progress)
    except (Cancelled, LeaseLost) as error:
        logger.info("delivery_not_wanted", extra=_fields(entry, end, error))
        outcome = Delivered.NOT_WANTED
    except ServerUnavailable as error:
        logger.warning("delivery_kept", extra=_fields(entry, end, error))
        return Delivered.KEPT
    except (ResultRefused, Unauthorized, WorkerTooOld) as error:
        if error.code in SENT_AGAIN:
            logger.warning("delivery_kept", extra=_fields(entry, end, error))
            return Delivered.KEPT
        try:
            aside = outbox.refuse(entry, error)
        except DiskFull as full:
            logger.error("delivery_kept", extra=_fields(entry, end, full))  # noqa: TRY400
            return Delivered.KEPT
        fields = _fields(entry, end, error) | {"kept_in": str(aside.folder)}
        logger.error("delivery_refused", extra=fields)  # noqa: TRY400 - the sentence says it all
        if isinstance(error, ResultRefused) and isinstance(end, Finished):
            _report_refusal(server, entry, end, error)
        return Delivered.REFUSED
    outbox.drop(entry)
    return outcome


def _send(
    server: QueueServer, entry: Entry, end: Finished | Failure, on_progress: OnFraction | None
) -> Delivered:
    if isinstance(end, Failure):
        server.fail(
            end.request_id,
            entry.lease_id,
            code=end.code,
            message=end.message,
            is_retryable=end.is_retryable,
        )
        return Delivered.REPORTED
    _upload(server, entry, end, on_progress)
    outcome = server.complete(end.request_id, entry.lease_id, end.result, end.artifacts)
    return _TAKEN.get(outcome, Delivered.ACCEPTED)


def _report_refusal(
    server: QueueServer, entry: Entry, end: Finished, refusal: ResultRefused
) -> None:
    """End the request, or its lease would run out and the same mask be made and refused again."""
    try:
        server.fail(
            end.request_id,
            entry.lease_id,
            code=refusal.code,
            message=f"The site refused the result: {refusal.message}",
            is_retryable=False,
        )
    except WorkerError as error:
        # The mask is safe aside; the site settles the request by its lease.
        logger.warning("refusal_not_reported", extra=_fields(entry, end, error))


def _upload(
    server: QueueServer, entry: Entry, end: Finished, on_progress: OnFraction | None
) -> None:
    paths = [entry.outputs_dir / name for name in end.artifacts]
    sizes = [path.stat().st_size for path in paths]
    total, done = max(sum(sizes), 1), 0
    for path, size in zip(paths, sizes, strict=True):

        def report(fraction: float, done: int = done, size: int = size) -> None:
            if on_progress is not None:
                on_progress((done + fraction * size) / total)

        server.upload_artifact(end.request_id, entry.lease_id, path, on_progress=report)
        done += size


def _fields(entry: Entry, end: Finished | Failure, error: WorkerError) -> dict[str, str]:
    return {
        "request_id": end.request_id,
        "lease": entry.lease_id,
        "code": error.code,
        "reason": error.message,
    }


def _end_of(entry: Entry) -> Finished | Failure:
    end = entry.end()
    if end is None:
        raise ResultRefused("The folder has neither a result nor a failure.")
    return end


def _about(entry: Entry) -> dict[str, object]:
    try:
        job = entry.job()
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {} if job is None else {"request_id": job.request_id, "attempt": job.attempt}


class Courier:
    """Delivers what is left over, in a thread of its own, so that no new request waits for it."""

    def __init__(
        self,
        outbox: Outbox,
        server: QueueServer,
        *,
        now: Callable[[], float] = time.monotonic,
        pause_s: Callable[[int], float] = lambda failures: full_jitter_s(
            failures, base_s=_FIRST_PAUSE_S, longest_s=_LONGEST_PAUSE_S
        ),
    ) -> None:
        self._outbox = outbox
        self._server = server
        self._now = now
        self._pause_s = pause_s
        self._due: dict[Entry, float] = {}
        self._failures: dict[Entry, int] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="courier")

    @property
    def waiting(self) -> int:
        """How many entries are not delivered yet."""
        return len(self._due)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def stop(self) -> None:
        """Take no further entry; what is left is delivered after the next start."""
        self._is_stopped = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1)

    def take(self, entry: Entry, *, has_failed: bool = False) -> None:
        """Take an entry over; one that just failed waits before its next try."""
        with self._lock:
            self._failures[entry] = int(has_failed)
            self._due[entry] = self._now() + (self._pause_s(1) if has_failed else 0.0)
        self._wake.set()

    def hurry(self) -> None:
        """Try everything now: the site has just answered."""
        with self._lock:
            for entry in self._due:
                self._due[entry] = self._now()
        self._wake.set()

    def deliver_due(self) -> None:
        """Try each entry whose time has come, once."""
        with self._lock:
            due = [entry for entry, at in self._due.items() if at <= self._now()]
        for entry in due:
            if self._is_stopped:
                return
            with about(lease=entry.lease_id, **_about(entry)):
                outcome = self._deliver_one(entry)
            with self._lock:
                self._book(entry, outcome)

    def _deliver_one(self, entry: Entry) -> Delivered:
        try:
            end = _end_of(entry)
            outcome = deliver(self._outbox, self._server, entry, end)
        except (ResultRefused, OSError, ValueError, KeyError, TypeError) as error:
            # Damaged on disk: nothing that trying again would mend.
            logger.error("delivery_damaged", extra={"lease": entry.lease_id, "reason": str(error)})  # noqa: TRY400
            self._outbox.refuse(entry, ResultRefused(str(error), code="damaged"))
            return Delivered.REFUSED
        if outcome is not Delivered.KEPT:
            fields = {"request_id": end.request_id, "outcome": outcome.value}
            logger.info("delivered_late", extra=fields)
        return outcome

    def _book(self, entry: Entry, outcome: Delivered) -> None:
        if outcome is Delivered.KEPT:
            self._failures[entry] = self._failures.get(entry, 0) + 1
            self._due[entry] = self._now() + self._pause_s(self._failures[entry])
            return
        self._due.pop(entry, None)
        self._failures.pop(entry, None)

    def _run(self) -> None:
        while not self._is_stopped:
            with about():
                try:
                    self.deliver_due()
                except Exception:
                    logger.exception("courier_failed")
            self._wake.wait(timeout=1.0)
            self._wake.clear()

"""Watches one job: renews its lease while the work moves, and ends it when it should end.

A hung GPU must not look alive, so a beat is sent only if progress changed lately, and none after
the deadline. Between the beats that the lease needs, progress is told as people like to see it.
Whatever ends the job early is kept as its verdict, and the child is killed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from worker.core.errors import (
    Cancelled,
    EngineHung,
    LeaseLost,
    ServerUnavailable,
    WorkerError,
)
from worker.core.job import Job
from worker.log import carried
from worker.ports import QueueServer

logger = logging.getLogger(__name__)

# How often the watch looks; also the longest that a cancelled job goes on after its last beat.
_TICK_S = 0.25
# After a beat that did not arrive, the next one is due earlier than usual.
_RETRY_SHARE = 6
# A person watches the page: a new stage is told at once, progress within a stage this often.
_SHOWN_EVERY_S = 3.0


class Drained(WorkerError):
    """The program is asked to end and the case took longer than it may still take."""

    code = "drained"


class Watch:
    """The life of one job, from its claim to its delivery.

    Parameters
    ----------
    server : QueueServer
        Asked to renew the lease.
    job : Job
    stall_s : float
        How long the work may go without progress.
    on_verdict : callable
        Called once, from the watch's thread, when the job is to end: kills the child.
    is_drained : callable
        Tells whether the time to drain is over.
    now : callable
        Seconds, monotonic.
    """

    def __init__(
        self,
        server: QueueServer,
        job: Job,
        *,
        stall_s: float,
        on_verdict: Callable[[], None],
        is_drained: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._job = job
        self._stall_s = stall_s
        self._on_verdict = on_verdict
        self._is_drained = is_drained
        self._now = now
        started = now()
        self._deadline = started + job.lease.deadline_in_s
        self._moved_at = started
        self._next_beat = started + job.lease.expires_in_s / 3
        self._expires_in_s = job.lease.expires_in_s
        self._state = ("downloading", 0.0)
        # The site knows this much from the claim itself.
        self._shown, self._shown_at = self._state, started
        self._quiet_until = started
        self._is_finished = False
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=carried(self._watch), daemon=True, name="heartbeat")
        self.verdict: WorkerError | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End watching; no beat is sent after this returns, save one that hangs in the network."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1)

    def moved(self, stage: str, progress: float) -> None:
        """Note progress; the same stage and progress again is none."""
        with self._lock:
            if (stage, progress) != self._state:
                self._state = (stage, progress)
                self._moved_at = self._now()

    def waits(self) -> None:
        """Note that the case stands in line for the device: that is no stall of its own.

        The case in front has a watch of its own, so nobody waits for ever.
        """
        with self._lock:
            self._moved_at = self._now()

    def finished(self) -> None:
        """Note that there is a result: neither a stall nor the deadline may destroy it."""
        self._is_finished = True

    def is_over(self) -> bool:
        """Tell whether the job is to end early."""
        return self.verdict is not None

    def check(self) -> None:
        """Raise the verdict, if there is one."""
        if self.verdict is not None:
            raise self.verdict

    def tick(self) -> None:
        """Look once: give a verdict, or beat if it is time."""
        now = self._now()
        verdict = self._early_end(now)
        if verdict is None and self._is_beat_due(now):
            verdict = self._beat(now)
        if verdict is not None:
            self._end_with(verdict)

    def _early_end(self, now: float) -> WorkerError | None:
        if self._is_finished:
            return None
        if self._is_drained():
            return Drained("The worker is ending and gave the request back.")
        if now >= self._deadline:
            return EngineHung(
                f"The case was not done within {self._job.lease.deadline_in_s / 60:.0f} min and "
                f"was ended while {self._state[0]}."
            )
        if now - self._moved_at >= self._stall_s:
            return EngineHung(
                f"There was no progress while {self._state[0]} for {self._stall_s:.0f} s, so the "
                "case was ended."
            )
        return None

    def _is_beat_due(self, now: float) -> bool:
        if not self._quiet_until <= now < self._deadline:
            return False
        stage_is_news = self._state[0] != self._shown[0]
        is_news = self._state != self._shown and now - self._shown_at >= _SHOWN_EVERY_S
        return stage_is_news or is_news or now >= self._next_beat

    def _beat(self, now: float) -> WorkerError | None:
        stage, progress = self._state
        try:
            expires_in_s = self._server.heartbeat(
                self._job.request_id, self._job.lease.id, stage=stage, progress=progress
            )
        except (Cancelled, LeaseLost) as error:
            return None if self._is_finished else error
        except WorkerError as error:
            # The work goes on: a result is taken even from a lease that ran out.
            is_network = isinstance(error, ServerUnavailable)
            level = logging.INFO if is_network else logging.WARNING
            logger.log(level, "heartbeat_failed", extra={"reason": error.message})
            self._next_beat = self._quiet_until = now + self._expires_in_s / _RETRY_SHARE
            return None
        self._shown, self._shown_at = (stage, progress), now
        self._expires_in_s = expires_in_s or self._expires_in_s
        self._next_beat = now + self._expires_in_s / 3
        return None

    def _end_with(self, verdict: WorkerError) -> None:
        self.verdict = verdict
        self._stop.set()
        self._on_verdict()

    def _watch(self) -> None:
        while not self._stop.wait(_TICK_S):
            try:
                self.tick()
            except Exception:
                logger.exception("watch_failed")

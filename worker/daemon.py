"""The daemon: asks for work, has it done, ends when asked. IDLE, BUSY, DRAINING, STOPPED.

Cases overlap: while one is on the device the next one's images come, and the last one's mask is
written and delivered. `forecast` says when a further request is wanted, `crew` runs the cases.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from tenacity import Retrying, retry_if_exception_type, stop_after_delay

from worker.backoff import WaitForServer, full_jitter_s
from worker.casework import CaseWork, Done
from worker.core.errors import (
    Cancelled,
    DiskFull,
    LeaseLost,
    ResultRefused,
    ServerUnavailable,
    WorkerError,
)
from worker.core.job import Job
from worker.crew import Crew
from worker.delivery import CURABLE, Courier
from worker.engine_start import EngineStart
from worker.forecast import Forecast
from worker.metrics import Metrics
from worker.outbox import Entry, Failure, Outbox
from worker.ports import Claim, QueueServer
from worker.room import Room
from worker.settings import ServerSettings
from worker.signals import Stop

logger = logging.getLogger(__name__)

# How long an unanswered claim may still take once the program is asked to end.
_LAST_ANSWER_S = 0.5
# How often a worker whose disk is full looks again.
_LOOK_FOR_ROOM_S = 10.0
# How often the cases in work are looked after while no further one is wanted.
_LOOK_S = 0.05


class State(StrEnum):
    """What the daemon is doing."""

    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"
    STOPPED = "stopped"


TRANSITIONS: frozenset[tuple[State, State]] = frozenset(
    {
        (State.IDLE, State.BUSY),
        (State.BUSY, State.IDLE),
        (State.IDLE, State.DRAINING),
        (State.BUSY, State.DRAINING),
        (State.DRAINING, State.STOPPED),
    }
)


class CheckedServer(QueueServer, Protocol):
    """A site that can be asked whether it is there."""

    def check(self) -> None:
        """Make a call that changes nothing."""
        ...


class Daemon:
    """One worker's loop over claims.

    Parameters
    ----------
    engine : EngineStart
        Starts the children beside the first polls.
    on_idle : callable
        Called after each poll that found nothing.
    """

    def __init__(
        self,
        *,
        server: CheckedServer,
        settings: ServerSettings,
        outbox: Outbox,
        courier: Courier,
        casework: CaseWork,
        room: Room,
        metrics: Metrics,
        stop: Stop,
        engine: EngineStart,
        forecast: Forecast,
        on_idle: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._settings = settings
        self._outbox = outbox
        self._courier = courier
        self._casework = casework
        self._room = room
        self._metrics = metrics
        self._stop = stop
        self._engine = engine
        self._forecast = forecast
        self._crew = Crew(casework)
        self._on_idle = on_idle
        self._now = now
        self._leases: list[Entry] = []
        self._failures = 0
        self._is_full = False
        self.state = State.IDLE

    def run(self) -> None:
        """Take requests until asked to stop.

        Raises
        ------
        WorkerError
            With the exit code of the program: 69, 70, 77, 78.
        """
        self._begin(look_for_s=self._settings.start_timeout_s)
        try:
            self._engine.begin()
            while not self._stop.is_asked():
                self._turn()
        except BaseException:
            self._casework.give_up()
            raise
        finally:
            self._end()

    def once(self) -> Done | None:
        """Take one request, or none where none is waiting."""
        self._begin(look_for_s=0)
        try:
            self._engine.wait()
            claimed = self._claim_one() if not self._stop.is_asked() else None
            return None if claimed is None else self._work_on(*claimed)
        finally:
            self._end()

    def _begin(self, *, look_for_s: float) -> None:
        self._outbox.open()
        self._look_for_site(look_for_s)
        self._recover()
        self._courier.start()
        logger.info("worker_ready", extra={"site": self._settings.url})

    def _end(self) -> None:
        if self.state is not State.DRAINING:
            self._go(State.DRAINING)
        self._crew.wait(time.sleep)
        self._collect()
        self._courier.stop()
        self._go(State.STOPPED)
        logger.info("worker_stopped", extra={"undelivered": self._courier.waiting})

    def _go(self, target: State) -> None:
        if (self.state, target) not in TRANSITIONS:
            raise RuntimeError(f"no way from {self.state} to {target}")
        self.state = target

    def _look_for_site(self, look_for_s: float) -> None:
        """Find the site, or raise what ends the program with 69 or 77."""
        attempts = Retrying(
            retry=retry_if_exception_type(ServerUnavailable),
            wait=WaitForServer(longest_s=min(5.0, self._settings.retry_longest_s)),
            stop=lambda state: self._stop.is_asked() or stop_after_delay(look_for_s)(state),
            sleep=self._stop.sleep,
            before_sleep=lambda state: logger.warning(
                "site_unavailable",
                extra={"reason": str(state.outcome.exception()) if state.outcome else ""},
            ),
            reraise=True,
        )
        try:
            attempts(self._server.check)
        except ServerUnavailable:
            # Asked to end while looking: that is no failure.
            if not self._stop.is_asked():
                raise

    def _recover(self) -> None:
        """Sort what an earlier run left behind."""
        self._outbox.take_back(CURABLE)
        for entry in self._outbox.entries():
            try:
                self._recover_one(entry)
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.exception("outbox_damaged", extra={"lease": entry.lease_id})
                self._outbox.refuse(entry, ResultRefused(str(error), code="damaged"))
        waiting = {"undelivered": self._courier.waiting, "open_leases": len(self._leases)}
        logger.info("outbox_read", extra=waiting)

    def _recover_one(self, entry: Entry) -> None:
        job, end = entry.job(), entry.end()
        if end is None and job is None:
            self._leases.append(entry)
            return
        if end is None and job is not None:
            # It counts as an attempt, so that a job that kills its worker comes to an end.
            sentence = "The worker was ended in the middle of this case and has started again."
            failure = Failure(
                request_id=job.request_id,
                code="worker_restart",
                message=sentence,
                is_retryable=True,
            )
            try:
                self._outbox.fail(entry, failure)
            except DiskFull as error:
                # Its lease runs out by itself; the next start finds it as it is.
                logger.error("disk_full", extra={"reason": error.message})  # noqa: TRY400
                return
        self._courier.take(entry)

    def _turn(self) -> None:
        """Look after the cases in work, and take another one if it is time."""
        self._engine.check()
        self._crew.check()
        self._collect()
        if not self._forecast.wants_another():
            self._stop.sleep(_LOOK_S)
            return
        claimed = self._claim_one()
        if claimed is not None:
            self._begin_case(*claimed)

    def _claim_one(self) -> tuple[Entry, Job] | None:
        """Claim once."""
        try:
            self._room.check()
            entry = self._leases.pop() if self._leases else self._outbox.begin()
            self._there_is_room()
        except DiskFull as error:
            self._pause_without_room(error)
            return None
        job = self._ask(entry)
        return None if job is None else (entry, job)

    def _ask(self, entry: Entry) -> Job | None:
        started = self._now()
        try:
            answer = self._claim(entry)
        except ServerUnavailable as error:
            self._metrics.claimed("unavailable")
            self._leases.append(entry)
            self._pause_after(error)
            return None
        except (Cancelled, LeaseLost) as error:
            logger.info("lease_gone", extra={"lease": entry.lease_id, "reason": error.message})
            self._outbox.drop(entry)
            return None
        except ResultRefused as error:
            self._metrics.claimed("refused")
            self._outbox.drop(entry)
            self._pause_after(error)
            return None
        if answer is None:
            return None
        self._site_answered()
        self._metrics.claimed("nothing" if answer.job is None else "granted")
        if answer.job is None:
            self._outbox.drop(entry)
            self._on_idle()
            spent_s = self._now() - started
            rest_s = self._settings.poll_interval_s - spent_s
            self._stop.sleep(max(answer.retry_after_s, rest_s, 0.0))
        return answer.job

    def _begin_case(self, entry: Entry, job: Job) -> None:
        if self._is_saved(entry, job):
            self._forecast.begin(job.request_id)
            self._crew.begin(entry, job)

    def _work_on(self, entry: Entry, job: Job) -> Done | None:
        """Work on one job here, and wait for its end."""
        if not self._is_saved(entry, job):
            return None
        done = self._casework.work(entry, job)
        self._book(done)
        return done

    def _is_saved(self, entry: Entry, job: Job) -> bool:
        """Write down what was granted; without the room for that, give it back."""
        try:
            self._outbox.save_job(entry, job)
        except DiskFull as error:
            self._pause_without_room(error)
            self._casework.give_back(entry, job, error)
            return False
        if self.state is State.IDLE:
            self._go(State.BUSY)
        return True

    def _collect(self) -> None:
        """Book the cases that have ended."""
        for done in self._crew.collect():
            self._book(done)
        if self.state is State.BUSY and not self._crew.is_at_work():
            self._go(State.IDLE)

    def _book(self, done: Done) -> None:
        self._metrics.attempted(done.ending.value, done.error.code if done.error else "")
        if done.result is not None:
            self._metrics.finished(done.result.timings, done.result.peak_memory_bytes)
        if done.error is not None and done.error.code == DiskFull.code:
            self._room.was_too_little()

    def _there_is_room(self) -> None:
        if self._is_full:
            logger.info("disk_has_room")
        self._is_full = False
        self._metrics.is_full(False)

    def _pause_without_room(self, error: DiskFull) -> None:
        # Once as an error; then it is known, and the log is on a full disk, too.
        level = logging.DEBUG if self._is_full else logging.ERROR
        logger.log(level, "disk_full", extra={"reason": error.message})
        self._is_full = True
        self._metrics.is_full(True)
        self._stop.sleep(min(_LOOK_FOR_ROOM_S, self._settings.retry_longest_s))

    def _site_answered(self) -> None:
        if self._failures:
            logger.info("site_is_back", extra={"failures": self._failures})
            self._courier.hurry()
        self._failures = 0

    def _pause_after(self, error: WorkerError) -> None:
        self._failures += 1
        pause_s = full_jitter_s(self._failures, longest_s=self._settings.retry_longest_s)
        asked_s = error.retry_after_s if isinstance(error, ServerUnavailable) else None
        pause_s = max(pause_s, asked_s or 0.0)
        logger.warning("claim_failed", extra={"reason": error.message, "pause_s": pause_s})
        self._stop.sleep(pause_s)

    def _claim(self, entry: Entry) -> Claim | None:
        """Claim in a thread, so that a poll the site holds does not hold the program's end.

        Returns
        -------
        Claim or None
            None where the program is to end. A lease whose answer never came stays on disk
            and is asked for again after the next start.
        """
        answers: queue.Queue[Claim | Exception] = queue.Queue(1)

        def ask() -> None:
            try:
                answers.put(self._server.claim(entry.lease_id, wait_s=self._settings.wait_s))
            except Exception as error:
                answers.put(error)

        threading.Thread(target=ask, daemon=True, name="claim").start()
        while not (self._stop.is_asked() or self._engine.is_broken() or self._crew.is_broken()):
            try:
                return _unwrap(answers.get(timeout=0.1))
            except queue.Empty:
                self._collect()
        try:
            answer = _unwrap(answers.get(timeout=_LAST_ANSWER_S))
            if answer.job is not None:
                self._server.release(answer.job.request_id, entry.lease_id)
        except (queue.Empty, WorkerError):
            return None
        self._outbox.drop(entry)
        return None


def _unwrap(answer: Claim | Exception) -> Claim:
    if isinstance(answer, Exception):
        raise answer
    return answer

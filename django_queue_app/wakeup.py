"""Who waits in this process, and who is woken when the queue changes.

A waiter is one coroutine and one small object: no thread, no database connection. Two things wake
it: `notify_*`, called in this process after a commit, and one watcher that looks into the database
every quarter of a second while somebody waits, so that several server processes, backoff and
expired leases work too.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID
from weakref import WeakSet

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 0.25
# A filed request is taken by one worker. Two are woken so that one that died with its connection
# still open doesn't make the request wait for the watcher.
WOKEN_PER_REQUEST = 2


@dataclass(frozen=True, kw_only=True)
class ClaimWish:
    """A worker waits for a request in its lane, for one of its models or for none in particular."""

    lane: str
    models: frozenset[str] = frozenset()

    def fits(self, work: Work) -> bool:
        """Whether this worker might be given such a request."""
        return self.lane == work.lane and (not work.model or work.model in self.models)


@dataclass(frozen=True, kw_only=True)
class OutcomeWish:
    """A front end waits for one request to reach an end."""

    request_id: UUID


@dataclass(frozen=True, kw_only=True)
class ChangeWish:
    """Somebody follows one request and has seen it as it was at `seen`, its time of change."""

    request_id: UUID
    seen: datetime


Wish = ClaimWish | OutcomeWish | ChangeWish


@dataclass(frozen=True, kw_only=True)
class Work:
    """Requests of one kind that a claim could take now; a model of None means any."""

    lane: str
    model: str | None = None
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What one look into the database saw; `changed_at` has every request that was asked for."""

    work: tuple[Work, ...] = ()
    ended: frozenset[UUID] = frozenset()
    changed_at: Mapping[UUID, datetime] = field(default_factory=dict)


class Look(Protocol):
    """One look into the database for the lanes and requests that somebody waits for."""

    def __call__(self, *, lanes: Collection[str], request_ids: Collection[UUID]) -> Sight:
        """Look; runs in the watcher's own thread."""
        ...

    def close(self) -> None:
        """Give the watcher's database connection back; runs in the same thread."""
        ...


@dataclass(eq=False)
class _Waiter:
    wish: Wish
    woken: asyncio.Future[bool] = field(repr=False)

    def wake(self) -> None:
        self._end(True)

    def give_up(self, *_: object) -> None:
        self._end(False)

    @property
    def topic(self) -> str | UUID:
        """What its wish is about: a lane, or a request."""
        return self.wish.lane if isinstance(self.wish, ClaimWish) else self.wish.request_id

    def _end(self, is_woken: bool) -> None:
        if not self.woken.done():
            self.woken.set_result(is_woken)


class Hub:
    """The waiters of one event loop.

    Parameters
    ----------
    look : Look
        Looks into the database for the watcher.
    interval_s : float
        Seconds between two looks.
    """

    def __init__(self, look: Look, *, interval_s: float = LOOK_INTERVAL_S) -> None:
        self._look = look
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        # By topic, so that a look costs the same for three waiters and for three hundred. A dict
        # keeps the order of arrival, so that whoever waits longest is woken first.
        self._waiters: dict[str | UUID, dict[_Waiter, None]] = {}
        self._crowds: Counter[Wish] = Counter()
        self._watcher: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        with _hubs_lock:
            _hubs.add(self)

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return sum(map(len, self._waiters.values()))

    def crowd(self, wish: Wish) -> int:
        """How many wait for the very same now."""
        return self._crowds[wish]

    @property
    def is_closed(self) -> bool:
        """Whether the server is going down: nobody may wait any more."""
        return self._closed.is_set()

    async def wait(
        self, wish: Wish, *, timeout_s: float, unless: asyncio.Future[Any] | None = None
    ) -> bool:
        """Wait until the wish may have come true.

        Parameters
        ----------
        wish : Wish
            What is waited for.
        timeout_s : float
            At most so long.
        unless : Future, optional
            Ends the wait, too, when it is done.

        Returns
        -------
        bool
            True when woken, False after `timeout_s`, by `unless` or when the hub is closed.
        """
        if self.is_closed or timeout_s <= 0:
            return False
        waiter = _Waiter(wish, self._loop.create_future())
        self._waiters.setdefault(waiter.topic, {})[waiter] = None
        self._crowds[wish] += 1
        self._watch()
        timer = self._loop.call_later(timeout_s, waiter.give_up)
        if unless is not None:
            unless.add_done_callback(waiter.give_up)
        try:
            return await waiter.woken
        finally:
            timer.cancel()
            if unless is not None:
                unless.remove_done_callback(waiter.give_up)
            self._forget(waiter)

    def _forget(self, waiter: _Waiter) -> None:
        others = self._waiters[waiter.topic]
        del others[waiter]
        if not others:
            del self._waiters[waiter.topic]
        self._crowds[waiter.wish] -= 1
        if not self._crowds[waiter.wish]:
            del self._crowds[waiter.wish]

    def close(self) -> None:
        """End every wait, as at shutdown. Safe from any thread and from a signal handler."""
        self._call(self._close)

    def work_filed(self, work: Work) -> None:
        """Say that a request can be claimed. Safe from any thread."""
        self._call(lambda: self._wake_for(work))

    def request_ended(self, request_id: UUID) -> None:
        """Say that a request reached an end. Safe from any thread."""
        self._call(lambda: self._wake_ended({request_id}))

    def request_changed(self, request_id: UUID) -> None:
        """Say that a request is not as it was. Safe from any thread."""
        self._call(lambda: self._wake_changed({request_id: None}))

    def _call(self, what: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:  # the loop is closed, so nobody waits in it
            logger.debug("wakeup_after_loop_end")

    def _close(self) -> None:
        self._closed.set()
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.give_up()

    def _wake_for(self, work: Work) -> None:
        fitting = (
            waiter
            for waiter in self._waiters.get(work.lane, ())
            if isinstance(waiter.wish, ClaimWish)
            and not waiter.woken.done()
            and waiter.wish.fits(work)
        )
        for waiter, _ in zip(list(fitting), range(work.count * WOKEN_PER_REQUEST), strict=False):
            waiter.wake()

    def _wake_ended(self, request_ids: Collection[UUID]) -> None:
        for request_id in request_ids:
            for waiter in self._waiters.get(request_id, ()):
                if isinstance(waiter.wish, OutcomeWish):
                    waiter.wake()

    def _wake_changed(self, changed_at: Mapping[UUID, datetime | None]) -> None:
        for request_id, moment in changed_at.items():
            for waiter in self._waiters.get(request_id, ()):
                if isinstance(waiter.wish, ChangeWish) and moment != waiter.wish.seen:
                    waiter.wake()

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = self._loop.create_task(self._look_while_waited_for())

    async def _look_while_waited_for(self) -> None:
        """Look into the database in one thread, and end with the last waiter."""
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="queue-watcher")
        try:
            while self._waiters and not self.is_closed:
                await self._look_once(thread)
                await self._pause()
        finally:
            self._watcher = None
            thread.submit(self._look.close)
            thread.shutdown(wait=False)

    async def _look_once(self, thread: ThreadPoolExecutor) -> None:
        lanes, request_ids = self._wanted()
        try:
            sight = await self._loop.run_in_executor(
                thread, lambda: self._look(lanes=lanes, request_ids=request_ids)
            )
        except Exception:  # a database that is away comes back; waiters end by their timeout
            logger.warning("queue_watcher_look_failed", exc_info=True)
            return
        for work in sight.work:
            self._wake_for(work)
        self._wake_ended(sight.ended)
        self._wake_changed(sight.changed_at)

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._closed.wait(), self._interval_s)
        except TimeoutError:
            return

    def _wanted(self) -> tuple[set[str], set[UUID]]:
        lanes = {topic for topic in self._waiters if isinstance(topic, str)}
        return lanes, {topic for topic in self._waiters if not isinstance(topic, str)}


_hubs: WeakSet[Hub] = WeakSet()
_hubs_lock = threading.Lock()


def _living_hubs() -> Iterable[Hub]:
    with _hubs_lock:
        return list(_hubs)


def notify_work(work: Work) -> None:
    """Say that something can be claimed; call it after the commit."""
    for hub in _living_hubs():
        hub.work_filed(work)


def notify_ended(request_id: UUID) -> None:
    """Say that a request reached an end; call it after the commit."""
    for hub in _living_hubs():
        hub.request_ended(request_id)


def notify_changed(request_id: UUID) -> None:
    """Say that a request is not as it was; call it after the commit."""
    for hub in _living_hubs():
        hub.request_changed(request_id)

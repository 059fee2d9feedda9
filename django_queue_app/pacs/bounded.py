"""What was read from an archive, kept in the process within bounds."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from django_queue_app.pacs.connection import CONNECTIONS

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
T = TypeVar("T")
R = TypeVar("R")


class Bounded(Generic[K, V]):
    """A mapping for threads that forgets what was not used for longest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return what is kept under a key, or None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def keep(self, key: K, value: V) -> None:
        """Keep a value."""
        with self._lock:
            self._kept[key] = value
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        """Keep nothing any more."""
        with self._lock:
            self._kept.clear()

    def forget(self, key: K) -> None:
        """Keep nothing under a key any more."""
        with self._lock:
            self._kept.pop(key, None)


def in_parallel(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `work(item)` in order, a few at a time; no more results wait than are at work."""
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="pacs")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * CONNECTIONS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

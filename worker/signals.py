"""Asks the program to end: the first signal drains, the second ends at once.

Ctrl-C, Ctrl-Break and SIGTERM, on Windows and elsewhere.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)


class Stop:
    """Whether, and how soon, the program is to end. Setting it is safe in a signal handler."""

    def __init__(self, *, drain_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._drain_s = drain_s
        self._now = now
        self._event = threading.Event()
        self._asked_at: float | None = None
        self._is_at_once = False

    def ask(self) -> None:
        """Ask once more: to drain, then to end at once."""
        if self._asked_at is None:
            self._asked_at = self._now()
        else:
            self._is_at_once = True
        self._event.set()

    def is_asked(self) -> bool:
        """Tell whether nothing new should be begun."""
        return self._event.is_set()

    def is_over(self) -> bool:
        """Tell whether a running case has to end, too."""
        if self._asked_at is None:
            return False
        return self._is_at_once or self._now() - self._asked_at >= self._drain_s

    def sleep(self, seconds: float) -> None:
        """Wait; return early when asked to stop."""
        end = self._now() + seconds
        # In short steps: on Windows a waiting main thread sees no signal.
        while not self._event.is_set():
            left = end - self._now()
            if left <= 0:
                return
            self._event.wait(min(left, 0.2))


@contextmanager
def handled(stop: Stop, *, on_signal: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let the signals ask `stop`, and put back the old handlers at the end."""

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.ask()
        on_signal()

    old = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)

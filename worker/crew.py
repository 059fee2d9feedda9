"""The cases in work at the same time, each in a thread of its own."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from worker.casework import CaseWork, Done
from worker.core.job import Job
from worker.outbox import Entry

logger = logging.getLogger(__name__)


class Crew:
    """Runs cases, and tells which have ended.

    Parameters
    ----------
    casework : CaseWork
        Does one case; called from several threads.
    """

    def __init__(self, casework: CaseWork) -> None:
        self._casework = casework
        self._ended: queue.Queue[Done] = queue.Queue()
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None

    def begin(self, entry: Entry, job: Job) -> None:
        """Begin a case, and return."""
        thread = threading.Thread(target=self._work, args=(entry, job), name="case", daemon=True)
        self._threads.append(thread)
        thread.start()

    def is_at_work(self) -> bool:
        """Tell whether any case is in work."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        return bool(self._threads)

    def collect(self) -> list[Done]:
        """Give the cases that have ended since the last call."""
        ended = []
        while not self._ended.empty():
            ended.append(self._ended.get_nowait())
        return ended

    def check(self) -> None:
        """Raise what a case met that the program must end for, if one has."""
        if self._error is not None:
            raise self._error

    def is_broken(self) -> bool:
        """Tell whether `check` would raise."""
        return self._error is not None

    def wait(self, look: Callable[[float], None]) -> None:
        """Wait until every case has ended; `look` waits for the seconds that it is given."""
        while self.is_at_work():
            look(0.05)

    def _work(self, entry: Entry, job: Job) -> None:
        try:
            self._ended.put(self._casework.work(entry, job))
        except BaseException as error:
            self._error = self._error or error

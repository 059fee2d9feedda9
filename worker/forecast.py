"""When the device will be free: whether a further request should be taken now.

A request that is taken too early only waits here while another worker might have begun it; taken
too late, the device waits for its images. So the next one is taken when what is in work will leave
the device about as soon as the images of the next one can be there, going by the last few cases.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from worker.console import View

_REMEMBERED = 5
# How much earlier than usually needed: a download that takes a little longer costs the device.
_EARLIER, _EARLIER_S = 1.25, 1.0
# Cases that have left the device, and are written or delivered while the next ones run.
_FINISHING = 2


@dataclass
class _Flight:
    """One case's times, in seconds of the monotonic clock."""

    claimed_at: float
    ready_at: float | None = None
    on_device_at: float | None = None
    off_device_at: float | None = None


class Forecast:
    """Follows the cases in work; itself a `View`, which passes on what it is told.

    Parameters
    ----------
    view : View
        What a person sees.
    prefetch : int
        How many requests may be taken before the device is free for them.
    devices : callable
        Gives how many networks can run at the same time.
    now : callable
        Seconds, monotonic.
    """

    def __init__(
        self,
        view: View,
        *,
        prefetch: int,
        devices: Callable[[], int] = lambda: 1,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._view = view
        self._prefetch = prefetch
        self._devices = devices
        self._now = now
        self._flights: dict[str, _Flight] = {}
        self._preparing: deque[float] = deque(maxlen=_REMEMBERED)
        self._inferring: deque[float] = deque(maxlen=_REMEMBERED)
        self._lock = threading.Lock()

    def begin(self, request_id: str) -> None:
        """Note that a request was taken."""
        with self._lock:
            self._flights[request_id] = _Flight(claimed_at=self._now())

    def stage(self, request_id: str, stage: str, fraction: float) -> None:
        """Note how a case moves."""
        with self._lock:
            flight = self._flights.get(request_id)
            if flight is not None:
                self._note(flight, stage, fraction)
        self._view.stage(request_id, stage, fraction)

    def done(self, request_id: str) -> None:
        """Forget a case that has ended."""
        with self._lock:
            self._flights.pop(request_id, None)
        self._view.done(request_id)

    def wants_another(self) -> bool:
        """Tell whether a further request should be taken now."""
        with self._lock:
            devices = self._devices()
            if self._prefetch == 0:
                return len(self._flights) < devices
            if len(self._flights) >= devices + self._prefetch + _FINISHING:
                return False
            before = [item for item in self._flights.values() if item.off_device_at is None]
            if len(before) < devices:
                return True
            if len(before) >= devices + self._prefetch or not self._inferring:
                return False
            lead_s = median(self._preparing) * _EARLIER + _EARLIER_S
            return self._free_in_s(before, devices) <= lead_s

    def _note(self, flight: _Flight, stage: str, fraction: float) -> None:
        now = self._now()
        if stage == "loading" and fraction >= 1 and flight.ready_at is None:
            flight.ready_at = now
            self._preparing.append(now - flight.claimed_at)
        if stage == "inferring" and flight.on_device_at is None:
            flight.on_device_at = now
        if stage == "writing" and flight.off_device_at is None:
            flight.off_device_at = now
            if flight.ready_at is not None and flight.on_device_at is not None:
                self._inferring.append(now - flight.on_device_at)

    def _free_in_s(self, before: list[_Flight], devices: int) -> float:
        """Give the seconds until a device is free for one more case than these."""
        free = [0.0] * devices
        for flight in sorted(before, key=lambda item: (item.on_device_at is None, item.claimed_at)):
            start_s = max(heapq.heappop(free), self._until_ready_s(flight))
            heapq.heappush(free, start_s + self._on_device_s(flight))
        return free[0]

    def _until_ready_s(self, flight: _Flight) -> float:
        if flight.ready_at is not None or flight.on_device_at is not None:
            return 0.0
        return max(0.0, median(self._preparing) - (self._now() - flight.claimed_at))

    def _on_device_s(self, flight: _Flight) -> float:
        usual_s = median(self._inferring)
        if flight.on_device_at is None:
            return usual_s
        return max(0.0, usual_s - (self._now() - flight.on_device_at))

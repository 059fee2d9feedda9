"""Whose turn it is on a device: one network at a time, in the order in which they asked."""

from __future__ import annotations

import threading
from collections import deque


class DeviceTurn:
    """One device; `processes` says how many share it."""

    def __init__(self) -> None:
        self._line: deque[Turn] = deque()
        self._changed = threading.Condition()
        self.processes = 1

    def ticket(self) -> Turn:
        """Give what one case waits with."""
        return Turn(self, self._line, self._changed)


class Turn:
    """One case's place in the line; `end` gives it up, whether it was waited for or not."""

    def __init__(self, device: DeviceTurn, line: deque[Turn], changed: threading.Condition) -> None:
        self._device = device
        self._line = line
        self._changed = changed

    @property
    def is_held(self) -> bool:
        """Whether the device is this case's."""
        with self._changed:
            return bool(self._line) and self._line[0] is self

    @property
    def is_shared(self) -> bool:
        """Whether other processes use the device, too."""
        return self._device.processes > 1

    def wait(self, timeout_s: float) -> bool:
        """Stand in line, and tell whether the device is this case's now."""
        with self._changed:
            if self not in self._line:
                self._line.append(self)
            return self._changed.wait_for(lambda: self._line[0] is self, timeout_s)

    def end(self) -> None:
        """Leave the device, or the line, to the others."""
        with self._changed:
            if self in self._line:
                self._line.remove(self)
                self._changed.notify_all()

"""How much memory this process used at most, measured per case where the system can."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Start counting anew, where the system can (Linux); else the peak is the process's."""
    with suppress(OSError):
        _CLEAR.write_text("5", encoding="ascii")  # proc(5): reset the peak resident set size


def peak_bytes() -> int:
    """Give the peak of resident memory since `reset_peak`, or since the process began."""
    with suppress(OSError, ValueError, IndexError):
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import psutil

    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))  # peak_wset is Windows's own

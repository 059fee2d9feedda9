"""How a process ended, in words."""

from __future__ import annotations

import signal

# Windows' exit codes of a process that native code ended (ntstatus.h).
_NTSTATUS = {
    0xC0000005: "crashed in native code (access violation)",
    0xC0000017: "ran out of memory",
    0xC00000FD: "crashed in native code (stack overflow)",
    0xC0000409: "crashed in native code (fast fail)",
}


def ending_in_words(returncode: int | None) -> str:
    """Say how a process ended."""
    if returncode is None:
        return "stopped answering"
    if returncode < 0:
        return _signal_in_words(-returncode)
    unsigned = returncode & 0xFFFFFFFF
    if unsigned in _NTSTATUS:
        return _NTSTATUS[unsigned]
    return f"ended with exit code {returncode}"


def _signal_in_words(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    words = {
        "SIGKILL": "was killed by the system, most often because memory ran out",
        "SIGSEGV": "crashed in native code (segmentation fault)",
        "SIGABRT": "gave up in native code (abort)",
        "SIGBUS": "crashed in native code (bus error)",
        "SIGTERM": "was asked to end from outside",
    }
    return f"{words.get(name, 'was ended by a signal')} ({name})"

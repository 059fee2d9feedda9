"""What the inference process does with the memory of a case that is over."""

from __future__ import annotations

import platform
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from worker import case_child
from worker.adapters import memory

needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep freed memory"
)

# In a process of its own: the allocator belongs to all of it. A case takes 300 MB and frees them.
_CASES = """
import numpy as np, psutil
from worker.adapters import memory

def held():
    return psutil.Process().memory_info().rss / 1e6

def case():
    for _ in range(2):
        np.ones(150_000_000, np.uint8)
        np.ones(300_000_000, np.uint8)

freed = memory.FreedArrays()
memory.room_bytes = lambda: int(ROOM)
case(); began = held()
freed.after_case(1_000_000_000)
case(); print(round(held() - began))
memory.give_back_freed()
print(round(held() - began))
"""


def held_mb(room: str) -> tuple[int, int]:
    """Give what the process holds after a case, and once that was given back."""
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", _CASES.replace("ROOM", room)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(memory.__file__).parents[2],
    )
    kept, left = map(int, told.stdout.split())
    return kept, left


@needs_glibc
def test_freed_arrays_are_kept_for_the_next_case_and_given_back() -> None:
    kept, left = held_mb("2e9")
    assert kept > 250
    assert left < 50


@needs_glibc
def test_nothing_is_kept_where_a_case_could_then_run_out_of_memory() -> None:
    kept, left = held_mb("1.9e9")
    assert kept < 50
    assert left < 50


def test_what_is_kept_stays_kept_while_a_case_still_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[tuple[int, int]] = []
    monkeypatch.setattr(memory, "_libc", lambda _: lambda *given: chosen.append(given))
    monkeypatch.setattr(memory, "room_bytes", lambda: 2_000)
    freed = memory.FreedArrays()
    kept = []
    # The second case took more, since its memory lay in pieces; the third too much.
    for peak in (1_000, 1_900, 2_100, 1_900):
        freed.after_case(peak)
        kept.append(chosen[-1][1] == 2**31 - 1)
    assert kept == [True, True, False, False]


def test_room_is_what_the_container_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CGROUP_LIMIT", limit)
    without = memory.room_bytes()
    limit.write_text("max\n", encoding="ascii")
    assert memory.room_bytes() == pytest.approx(without, rel=0.2)
    limit.write_text("4096\n", encoding="ascii")
    assert memory.room_bytes() == 4096


def test_a_child_that_has_nothing_to_do_gives_memory_back_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(case_child, "IDLE_S", 0.01)
    incoming: queue.Queue[dict[str, Any]] = queue.Queue()
    messages = case_child.Messages(incoming)
    is_idle = threading.Event()
    calls = []

    def on_idle() -> None:
        calls.append(None)
        is_idle.set()

    def speak() -> None:
        is_idle.wait(10)
        incoming.put({"type": "exit"})

    speaker = threading.Thread(target=speak)
    speaker.start()
    assert messages.next(on_idle) == {"type": "exit"}
    speaker.join()
    incoming.put({"type": "case"})
    assert messages.next(on_idle) == {"type": "case"}
    assert len(calls) == 1

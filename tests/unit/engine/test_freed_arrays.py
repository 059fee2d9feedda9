"""What the inference process does with the memory of a case that is over."""

from __future__ import annotations

import platform
import queue
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from worker import case_child
from worker.adapters import freed_arrays
from worker.adapters.freed_arrays import FreedArrays

needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc"
    or tuple(map(int, platform.libc_ver()[1].split("."))) < (2, 35),
    reason="only glibc 2.35 and later can be told to keep freed memory",
)

# In a process of its own: the allocator belongs to all of it. A case takes 300 MB and frees them.
_CASES = """
import numpy as np, psutil
from worker.adapters import freed_arrays

def held():
    return psutil.Process().memory_info().rss / 1e6

def case():
    for _ in range(2):
        np.ones(150_000_000, np.uint8)
        np.ones(300_000_000, np.uint8)

freed = freed_arrays.FreedArrays()
case(); began = held()
freed_arrays.free_bytes = lambda: int(FREE)
freed.after_case(300_000_000)
case(); print(round(held() - began))
freed.after_case(600_000_000); freed_arrays.free_bytes = lambda: 10_000_000
freed.after_case(600_000_000)
print(round(held() - began))
case(); print(round(held() - began), freed.are_kept)
"""


def held_mb(free: str) -> list[str]:
    """Give what the process holds after a case, once memory grew short, and after one more case."""
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", _CASES.replace("FREE", free)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(freed_arrays.__file__).parents[2],
    )
    return told.stdout.split()


@needs_glibc
def test_freed_arrays_are_kept_while_there_is_room() -> None:
    kept, short, after, are_kept = held_mb("2e9")
    assert int(kept) > 250
    assert int(short) < 50, "given back as soon as memory is short"
    assert (int(after) < 50, are_kept) == (True, "False")


@needs_glibc
def test_nothing_is_kept_where_a_case_could_then_run_out_of_memory() -> None:
    kept, short, after, are_kept = held_mb("3e8")
    assert (int(kept) < 50, int(short) < 50, int(after) < 50, are_kept) == (*[True] * 3, "False")


class Computer:
    """As much memory as it is told; the C library takes every setting, unless it refuses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free, self.held, self.takes = 0, 0, 1
        self.trims = 0
        monkeypatch.setattr(freed_arrays, "free_bytes", lambda: self.free)
        monkeypatch.setattr(freed_arrays.psutil, "Process", lambda: self)
        monkeypatch.setattr(freed_arrays, "_libc", self._libc)

    def memory_info(self) -> Any:
        return SimpleNamespace(rss=self.held)

    def _libc(self, name: str) -> Any:
        return self._trim if name == "malloc_trim" else lambda *_: self.takes

    def _trim(self, _: int) -> int:
        self.trims += 1
        return 1


@pytest.fixture
def computer(monkeypatch: pytest.MonkeyPatch) -> Computer:
    return Computer(monkeypatch)


def test_what_is_kept_does_not_count_twice(computer: Computer) -> None:
    freed = FreedArrays()
    computer.held, computer.free = 100, 1_900
    freed.after_case(1_000)
    assert freed.are_kept
    # The next one's peak holds what was kept, too: it took no more than before.
    computer.held, computer.free = 1_800, 300
    freed.after_case(1_900)
    assert freed.are_kept
    computer.free = 200  # another program came
    freed.after_case(1_900)
    assert not freed.are_kept
    assert computer.trims == 1


def test_a_small_case_does_not_make_room_for_a_large_one(computer: Computer) -> None:
    freed = FreedArrays()
    computer.held, computer.free = 100, 1_500
    for peak in (1_000, 200, 1_000):
        freed.after_case(peak)
        assert not freed.are_kept


def test_processes_that_do_the_same_share_what_is_free(computer: Computer) -> None:
    computer.held, computer.free = 100, 2_000
    alone, one_of_two = FreedArrays(), FreedArrays(sharers=2)
    for freed in (alone, one_of_two):
        freed.after_case(1_000)
    assert (alone.are_kept, one_of_two.are_kept) == (True, False)


def test_after_a_shortage_nothing_is_kept_any_more(computer: Computer) -> None:
    freed = FreedArrays()
    computer.held, computer.free = 100, 10_000
    freed.after_case(1_000)
    freed.after_shortage()
    freed.after_case(1_000)
    assert not freed.are_kept
    assert computer.trims == 1


def test_a_library_that_refuses_is_left_as_it_is(computer: Computer) -> None:
    freed = FreedArrays()
    computer.held, computer.free, computer.takes = 100, 10_000, 0
    freed.after_case(1_000)
    assert not freed.are_kept


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(freed_arrays, "_CGROUPS", tmp_path)
    monkeypatch.setattr(freed_arrays, "_MEMBERSHIPS", tmp_path / "cgroup")
    return tmp_path


def limit(folder: Path, names: tuple[str, str], most: str, used: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(names, (most, str(used)), strict=True):
        (folder / name).write_text(f"{text}\n", encoding="ascii")


def test_the_limit_of_a_service_or_of_a_container_counts(groups: Path) -> None:
    names = ("memory.max", "memory.current")
    without = freed_arrays.free_bytes()
    assert without > 10_000
    (groups / "cgroup").write_text("0::/system.slice/worker.service\n", encoding="ascii")
    limit(groups / "system.slice" / "worker.service", names, "max", 5)
    assert freed_arrays.free_bytes() > 10_000
    limit(groups / "system.slice", names, "9000", 2000)
    assert freed_arrays.free_bytes() == 7000
    limit(groups, names, "8000", 3000)  # as a container sees its own
    assert freed_arrays.free_bytes() == 5000


def test_the_limit_of_version_1_counts(groups: Path) -> None:
    (groups / "cgroup").write_text("4:cpu,memory:/docker/1\n1:name=x:/\n", encoding="ascii")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    limit(groups / "memory" / "docker" / "1", names, "9000", 9500)
    assert freed_arrays.free_bytes() == 0


def test_a_child_keeps_nothing_after_it_ran_out_of_memory() -> None:
    calls: list[object] = []

    class Freed:
        def after_case(self, peak_bytes: int) -> None:
            calls.append(peak_bytes)

        def after_shortage(self) -> None:
            calls.append("short")

    answers: list[Any] = [{"type": "result", "peak_memory_bytes": 7}, MemoryError(), KeyError()]

    def answer(*_: Any) -> Any:
        given = answers.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(case_child, "_answer", answer)
        incoming: queue.Queue[dict[str, Any]] = queue.Queue()
        for kind in ("case", "case", "case", "exit"):
            incoming.put({"type": kind})
        code = case_child.serve(
            case_child.Messages(incoming),
            lambda _: None,
            settings=None,  # type: ignore[arg-type]
            engine=None,  # type: ignore[arg-type]
            freed_arrays=Freed(),  # type: ignore[arg-type]
        )
    assert (code, calls) == (0, [7, "short"])


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

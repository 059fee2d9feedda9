"""The cache on a real disk, with a clock of its own."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from worker.adapters import input_cache
from worker.adapters.input_cache import InputCache
from worker.settings_inputs import CacheSettings

DAY = 86_400


class Bench:
    """A cache, a folder beside it for the files of a job, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job = folder / "job"
        self.job.mkdir()
        self.now = time.time()

    def cache(self, *, max_bytes: int = 1000, max_age_s: int = DAY) -> InputCache:
        settings = CacheSettings(max_bytes=max_bytes, max_age_s=max_age_s)
        cache = InputCache(self.folder, settings, now=lambda: self.now)
        cache.open()
        return cache

    def put(self, cache: InputCache, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        source = self.job / "fetched"
        source.write_bytes(data)
        cache.put(sha256, source)
        source.unlink()
        self.now += 1
        return sha256

    def take(self, cache: InputCache, data: bytes) -> bool:
        target = self.job / "taken"
        target.unlink(missing_ok=True)
        is_there = cache.take(hashlib.sha256(data).hexdigest(), len(data), target)
        assert target.exists() == is_there
        assert not is_there or target.read_bytes() == data
        self.now += 1
        return is_there


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_was_put_is_taken_and_nothing_else(bench: Bench) -> None:
    cache = bench.cache()
    bench.put(cache, b"one")
    assert bench.take(cache, b"one")
    assert not bench.take(cache, b"two")
    assert bench.take(bench.cache(), b"one"), "after a restart"


def test_two_work_folders_share_nothing(bench: Bench, tmp_path: Path) -> None:
    bench.put(bench.cache(), b"one")
    (tmp_path / "other").mkdir()
    other = Bench(tmp_path / "other")
    assert not other.take(other.cache(), b"one")


def test_the_entry_used_longest_ago_goes_first(bench: Bench) -> None:
    cache = bench.cache(max_bytes=100)
    first, second, third = (bytes([letter]) * 40 for letter in b"abc")
    bench.put(cache, first)
    bench.put(cache, second)
    assert bench.take(cache, first)
    bench.put(cache, third)
    assert bench.take(cache, first)
    assert bench.take(cache, third)
    assert not bench.take(cache, second)
    assert cache.state().size_bytes <= 100


def test_an_image_larger_than_the_whole_cache_is_not_kept(bench: Bench) -> None:
    cache = bench.cache(max_bytes=10)
    bench.put(cache, b"small")
    bench.put(cache, b"x" * 11)
    assert bench.take(cache, b"small")


def test_age_counts_from_the_fetch_however_often_it_is_used(bench: Bench) -> None:
    cache = bench.cache(max_age_s=100)
    bench.put(cache, b"one")
    for _ in range(3):
        bench.now += 30
        assert bench.take(cache, b"one")
    bench.now += 30
    assert not bench.take(cache, b"one")
    bench.cache(max_age_s=100)
    assert cache.state().files == 0, "deleted at the next start"


def test_an_idle_worker_deletes_what_grew_old(bench: Bench) -> None:
    cache = bench.cache(max_age_s=1000)
    bench.put(cache, b"one")
    bench.now += 240
    cache.tidy()
    assert cache.state().files == 1
    bench.now += 1000
    cache.tidy()
    assert cache.state().files == 0


@pytest.mark.parametrize("damage", [b"", b"onE", b"one and more"])
def test_a_damaged_entry_is_dropped_and_can_be_put_anew(bench: Bench, damage: bytes) -> None:
    cache = bench.cache()
    sha256 = bench.put(cache, b"one")
    (cache.folder / sha256[:2] / sha256).write_bytes(damage)
    assert not bench.take(cache, b"one")
    assert cache.state().files == 0
    bench.put(cache, b"one")
    assert bench.take(cache, b"one")


def test_clearing_leaves_the_images_of_a_running_case(bench: Bench) -> None:
    cache = bench.cache()
    sha256 = bench.put(cache, b"one")
    target = bench.job / "0.dcm"
    assert cache.take(sha256, 3, target)
    gone = cache.clear()
    assert (gone.files, gone.size_bytes) == (1, 3)
    assert target.read_bytes() == b"one"
    assert not cache.folder.exists()
    bench.put(cache, b"two")
    assert bench.take(cache, b"two"), "goes on after it was cleared"


@pytest.mark.parametrize("off", [{"max_bytes": 0}, {"max_age_s": 0}])
def test_turned_off_it_keeps_nothing_and_deletes_what_is_there(
    bench: Bench, off: dict[str, int]
) -> None:
    bench.put(bench.cache(), b"one")
    cache = bench.cache(**off)
    assert not cache.folder.exists()
    bench.put(cache, b"two")
    assert not cache.folder.exists()
    assert not bench.take(cache, b"two")


def test_without_hard_links_files_are_copied(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    cache = bench.cache()
    sha256 = bench.put(cache, b"one")
    assert bench.take(cache, b"one")
    assert (bench.job / "taken").stat().st_nlink == 1
    assert sorted(path.name for path in cache.folder.rglob("*") if path.is_file()) == [sha256]


def test_a_copy_that_a_crash_left_is_deleted(bench: Bench) -> None:
    cache = bench.cache()
    bench.put(cache, b"one")
    left = cache.folder / "0123.copy"
    left.write_bytes(b"on")
    os.utime(left, (bench.now - 7200, bench.now - 7200))
    bench.cache()
    assert not left.exists()
    assert bench.take(cache, b"one")


def test_a_full_disk_evicts_the_oldest_until_there_is_room(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = bench.cache()
    for letter in b"abcd":
        bench.put(cache, bytes([letter]) * 100)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        input_cache.shutil,
        "disk_usage",
        lambda _: usage(1000, 0, 600 - cache.state().size_bytes),
    )
    cache.make_room(150)
    assert cache.state().files == 4
    cache.make_room(350)
    assert cache.state().files == 2
    assert bench.take(cache, b"d" * 100)
    cache.make_room(10_000)
    assert cache.state().files == 0


@pytest.mark.parametrize("digest", ["../../etc/passwd", "", "a" * 63, "/" * 64])
def test_a_digest_that_is_none_makes_no_path(bench: Bench, digest: str) -> None:
    cache = bench.cache()
    source = bench.job / "source"
    source.write_bytes(b"one")
    cache.put(digest, source)
    assert not cache.folder.exists()
    assert not cache.take(digest, 3, bench.job / "taken")


def test_a_cache_that_can_not_be_written_does_not_fail_a_case(bench: Bench) -> None:
    cache = bench.cache()
    cache.folder.write_text("a file where the folder should be")
    bench.put(cache, b"one")
    assert not bench.take(cache, b"one")
    assert cache.state().files == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_only_this_user_can_look_into_it(bench: Bench) -> None:
    old = os.umask(0)
    try:
        cache = bench.cache()
        bench.put(cache, b"one")
    finally:
        os.umask(old)
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    cache.folder.chmod(0o755)
    bench.cache()
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700


def test_threads_may_put_and_take_while_it_is_cleared(bench: Bench) -> None:
    from concurrent.futures import ThreadPoolExecutor

    cache = bench.cache(max_bytes=2000)
    images = [os.urandom(100) for _ in range(40)]

    def work(number: int) -> None:
        data = images[number % len(images)]
        sha256 = hashlib.sha256(data).hexdigest()
        source, target = bench.job / f"s{number}", bench.job / f"t{number}"
        source.write_bytes(data)
        cache.put(sha256, source)
        if cache.take(sha256, len(data), target):
            assert target.read_bytes() == data
        if number % 50 == 0:
            cache.clear()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(400)))
    assert cache.state().size_bytes <= 2000
    shutil.rmtree(cache.folder, ignore_errors=True)

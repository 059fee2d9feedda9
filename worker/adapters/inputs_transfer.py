"""What every way of fetching shares: names of the files, threads, a count of bytes, the disk."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from worker.adapters.input_cache import InputCache
from worker.core.errors import Cancelled, DiskFull
from worker.core.job import InputInstance, Job
from worker.log import carried
from worker.ports import IsCancelled, OnFraction

# Room for the decoded volumes' files beside the images themselves.
_SPARE_BYTES = 200_000_000

Files = Mapping[str, tuple[Path, ...]]


def plan_files(job: Job, target_dir: Path) -> tuple[Files, dict[Path, InputInstance]]:
    """Name the file of each instance, and make the folders for this user alone.

    Paths are numbers, not ids: short enough for Windows, and nothing in them to leak.
    """
    wanted: dict[Path, InputInstance] = {}
    files: dict[str, tuple[Path, ...]] = {}
    target_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for s, series in enumerate(job.series):
        folder = target_dir / str(s)
        folder.mkdir(exist_ok=True)
        paths = tuple(folder / f"{i}.dcm" for i in range(len(series.instances)))
        wanted.update(zip(paths, series.instances, strict=True))
        files[series.series_id] = paths
    return files, wanted


def fetch_all(fetches: Sequence[Callable[[], None]], *, threads: int, counter: Counter) -> None:
    """Do every fetch, several at a time; the first error ends the others and is raised."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="download")
    tasks = [pool.submit(carried(fetch)) for fetch in fetches]
    try:
        # Woken now and then, so that the main thread sees a signal on every system.
        while wait(tasks, timeout=0.5, return_when=FIRST_EXCEPTION).not_done:
            if any(task.done() and task.exception() for task in tasks):
                break
    finally:
        counter.stop()
        pool.shutdown(wait=True, cancel_futures=True)
    for task in tasks:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, _Stopped):
            raise error


class _Stopped(Exception):
    """Another download failed, so this one need not go on."""


class Counter:
    """Bytes over all files; the place where a cancelled job stops its downloads."""

    def __init__(self, total: int, on_progress: OnFraction, is_cancelled: IsCancelled) -> None:
        self._total = max(total, 1)
        self._on_progress = on_progress
        self._is_cancelled = is_cancelled
        self._done = 0
        self._is_stopped = False
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count bytes, and raise Cancelled where going on is of no use."""
        if self._is_stopped:
            raise _Stopped
        if self._is_cancelled():
            raise Cancelled("The download was stopped.")
        with self._lock:
            self._done += count
            self._on_progress(min(1.0, max(0.0, self._done / self._total)))

    def stop(self) -> None:
        """Let every download end at its next chunk."""
        self._is_stopped = True


def check_room(folder: Path, image_bytes: int, cache: InputCache | None = None) -> None:
    """See that the images fit on the disk; what is cached makes room for them.

    Raises
    ------
    DiskFull
    """
    needed_bytes = image_bytes + _SPARE_BYTES
    if cache is not None:
        cache.make_room(needed_bytes)
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise DiskFull(
            f"The disk of the work folder has {free / 1e6:.0f} MB left and this case needs "
            f"{needed_bytes / 1e6:.0f} MB: free some space."
        )

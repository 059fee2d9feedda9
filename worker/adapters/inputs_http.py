"""Fetches the images of a job from the site: several at a time, resumed after a cut, checked."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import requests

from worker.adapters.http_client import HttpClient, network_sentence, raise_for_status
from worker.backoff import full_jitter_s
from worker.core.errors import (
    Cancelled,
    InputUnavailable,
    ResultRefused,
    ServerUnavailable,
    WorkerError,
)
from worker.core.job import InputInstance, Job
from worker.ports import IsCancelled, OnFraction
from worker.settings import ServerSettings

_CHUNK_BYTES = 1 << 18
# Tries in a row that bring not one byte before the input counts as unavailable.
_FRUITLESS_TRIES = 5
_LONGEST_PAUSE_S = 10.0
# Room for the decoded volumes' files beside the images themselves.
_SPARE_BYTES = 200_000_000


class HttpInputs:
    """`ports.InputSource` over HTTP."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        downloads: int = 4,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self._client = HttpClient(settings)
        self._downloads = downloads
        self._sleep = sleep or threading.Event().wait

    def download(
        self, job: Job, target_dir: Path, *, on_progress: OnFraction, is_cancelled: IsCancelled
    ) -> Mapping[str, tuple[Path, ...]]:
        """Fetch every instance whole into ``<target_dir>/<series>/<instance>.dcm``.

        Paths are numbers, not ids: short enough for Windows, and nothing in them to leak.
        """
        wanted: dict[Path, InputInstance] = {}
        files: dict[str, tuple[Path, ...]] = {}
        for s, series in enumerate(job.series):
            folder = target_dir / str(s)
            folder.mkdir(parents=True, exist_ok=True)
            paths = tuple(folder / f"{i}.dcm" for i in range(len(series.instances)))
            wanted.update(zip(paths, series.instances, strict=True))
            files[series.series_id] = paths
        total = sum(item.size_bytes for item in wanted.values())
        _check_room(target_dir, total)
        counter = _Counter(total, on_progress, is_cancelled)
        self._fetch_all(job, wanted, counter)
        return files

    def _fetch_all(self, job: Job, wanted: dict[Path, InputInstance], counter: _Counter) -> None:
        pool = ThreadPoolExecutor(self._downloads, thread_name_prefix="download")
        tasks = [
            pool.submit(self._fetch, job, item, path, counter) for path, item in wanted.items()
        ]
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

    def _fetch(self, job: Job, item: InputInstance, target: Path, counter: _Counter) -> None:
        for is_last_try in (False, True):
            part = _Part(target, item)
            self._fill(job, part, counter)
            if part.is_right():
                part.keep()
                return
            counter.add(-part.discard())
            if is_last_try:
                raise InputUnavailable(
                    f"The image {item.id} does not have the digest that the site named, twice.",
                    code="digest_mismatch",
                )

    def _fill(self, job: Job, part: _Part, counter: _Counter) -> None:
        """Bring the part to its whole size, however often the connection is cut."""
        fruitless = 0
        while part.size < part.item.size_bytes:
            before = part.size
            error = self._try_once(job, part, counter)
            if part.size >= part.item.size_bytes:
                return
            fruitless = 0 if part.size > before else fruitless + 1
            if fruitless >= _FRUITLESS_TRIES:
                raise InputUnavailable(
                    f"The image {part.item.id} could not be fetched whole: "
                    f"{error or 'the answers end early'}"
                )
            self._sleep(full_jitter_s(fruitless + 1, base_s=0.5, longest_s=_LONGEST_PAUSE_S))

    def _try_once(self, job: Job, part: _Part, counter: _Counter) -> WorkerError | None:
        headers = {
            "If-Match": f'"{job.lease.id}"',
            "Accept": "application/dicom",
            # A compressed transfer can't be resumed by byte position.
            "Accept-Encoding": "identity",
            **part.range_headers(),
        }
        path = f"requests/{job.request_id}/instances/{part.item.id}"
        try:
            with self._client.call("GET", path, headers=headers, stream=True) as response:
                if response.status_code == 416:
                    counter.add(-part.discard())
                    return None
                raise_for_status(response)
                if response.status_code != 206:
                    counter.add(-part.discard())
                part.etag = response.headers.get("ETag")
                for chunk in response.iter_content(_CHUNK_BYTES):
                    counter.add(part.append(chunk))
        except ServerUnavailable as error:
            return error
        except ResultRefused as error:
            raise InputUnavailable(f"The image {part.item.id}: {error}", code=error.code) from error
        except requests.RequestException as error:
            return ServerUnavailable(network_sentence(self._client.settings.url, error))
        return None


class _Part:
    """One file while it grows."""

    def __init__(self, target: Path, item: InputInstance) -> None:
        self.item = item
        self.size = 0
        self.etag: str | None = None
        self._target = target
        self._path = target.with_suffix(".part")
        self._digest = hashlib.sha256()
        self._path.write_bytes(b"")

    def range_headers(self) -> dict[str, str]:
        """Ask for the rest only, and only if it is still the same version."""
        if self.size == 0 or self.etag is None or self.etag.startswith("W/"):
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self.etag}

    def append(self, chunk: bytes) -> int:
        """Write what arrived and give its length; more than promised is refused."""
        if self.size + len(chunk) > self.item.size_bytes:
            raise InputUnavailable(
                f"The image {self.item.id} is larger than the site named.", code="digest_mismatch"
            )
        with self._path.open("ab") as file:
            file.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)
        return len(chunk)

    def is_right(self) -> bool:
        """Tell whether the digest is the manifest's."""
        return self._digest.hexdigest() == self.item.sha256.lower()

    def keep(self) -> None:
        """Give the file its name."""
        self._path.replace(self._target)

    def discard(self) -> int:
        """Start anew and give how many bytes are gone."""
        gone, self.size = self.size, 0
        self._digest = hashlib.sha256()
        self._path.write_bytes(b"")
        return gone


class _Stopped(Exception):
    """Another download failed, so this one need not go on."""


class _Counter:
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


def _check_room(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + _SPARE_BYTES:
        raise InputUnavailable(
            f"The disk of the work folder has {free / 1e6:.0f} MB left and this case needs "
            f"{(needed_bytes + _SPARE_BYTES) / 1e6:.0f} MB: free some space.",
            code="disk_full",
        )

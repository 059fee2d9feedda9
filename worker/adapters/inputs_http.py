"""Fetches the images of a job from the site: several at a time, resumed after a cut, checked.

What was fetched before, by its digest, comes from the cache.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import requests

from worker.adapters.http_client import (
    SLOWEST_BYTES_PER_S,
    HttpClient,
    network_sentence,
    raise_for_status,
)
from worker.adapters.http_limit import TimeLimit
from worker.adapters.input_cache import InputCache
from worker.adapters.inputs_batch import Batches, Wanted, plan_batches
from worker.adapters.inputs_transfer import Counter, Files, check_room, fetch_all, plan_files
from worker.backoff import full_jitter_s
from worker.core.errors import InputUnavailable, ResultRefused, ServerUnavailable, WorkerError
from worker.core.job import InputInstance, Job
from worker.ports import IsCancelled, OnFraction
from worker.settings import ServerSettings

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 18
# Tries in a row that bring not one byte before the input counts as unavailable.
_FRUITLESS_TRIES = 5
_LONGEST_PAUSE_S = 10.0


class HttpInputs:
    """`ports.InputSource` over HTTP.

    Parameters
    ----------
    downloads : int
        Images fetched at the same time.
    cache : InputCache, optional
        Asked before the site is.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        downloads: int = 4,
        cache: InputCache | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self._client = HttpClient(settings)
        self._downloads = downloads
        self._cache = cache
        self._sleep = sleep or threading.Event().wait

    def download(
        self, job: Job, target_dir: Path, *, on_progress: OnFraction, is_cancelled: IsCancelled
    ) -> Files:
        """Fetch every instance whole into ``<target_dir>/<series>/<instance>.dcm``."""
        files, wanted = plan_files(job, target_dir)
        total = sum(item.size_bytes for item in wanted.values())
        counter = Counter(total, on_progress, is_cancelled)
        missing = self._take_cached(wanted, counter)
        missing_bytes = sum(item.size_bytes for item in missing.values())
        check_room(target_dir, missing_bytes, self._cache)
        batches = Batches(self._client, job)
        fetch_all(
            [
                partial(self._fetch_several, job, batches, batch, counter)
                for batch in plan_batches(missing, at_once=job.instances_at_once)
            ],
            threads=self._downloads,
            counter=counter,
        )
        fields = {
            "request_id": job.request_id,
            "images": len(wanted),
            "cached": len(wanted) - len(missing),
            "fetched_bytes": missing_bytes,
        }
        logger.info("inputs_ready", extra=fields)
        return files

    def _take_cached(
        self, wanted: dict[Path, InputInstance], counter: Counter
    ) -> dict[Path, InputInstance]:
        """Give what is still missing."""
        cache = self._cache
        if cache is None:
            return wanted
        # Here, too, since a worker that is never idle would keep what grew old.
        cache.tidy()
        missing = {}
        for path, item in wanted.items():
            if cache.take(item.sha256, item.size_bytes, path):
                counter.add(item.size_bytes)
            else:
                missing[path] = item
        return missing

    def _fetch_several(self, job: Job, batches: Batches, batch: Wanted, counter: Counter) -> None:
        missing = dict(batch)
        counter.add(0)  # raises where going on is of no use
        with closing(batches.fetch(batch)) as found:
            for path, data in found:
                part = path.with_suffix(".part")
                part.write_bytes(data)
                part.replace(path)
                item = missing.pop(path)
                self._keep(item, path)
                counter.add(item.size_bytes)
        for path, item in missing.items():
            self._fetch(job, item, path, counter)

    def _keep(self, item: InputInstance, path: Path) -> None:
        if self._cache is not None:
            self._cache.put(item.sha256, path)

    def _fetch(self, job: Job, item: InputInstance, target: Path, counter: Counter) -> None:
        for is_last_try in (False, True):
            part = _Part(target, item)
            self._fill(job, part, counter)
            if part.is_right():
                part.keep()
                self._keep(item, target)
                return
            counter.add(-part.discard())
            if is_last_try:
                raise InputUnavailable(
                    f"The image {item.id} does not have the digest that the site named, twice.",
                    code="digest_mismatch",
                )

    def _fill(self, job: Job, part: _Part, counter: Counter) -> None:
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

    def _try_once(self, job: Job, part: _Part, counter: Counter) -> WorkerError | None:
        headers = {
            "If-Match": f'"{job.lease.id}"',
            "Accept": "application/dicom",
            # A compressed transfer can't be resumed by byte position.
            "Accept-Encoding": "identity",
            **part.range_headers(),
        }
        path = f"requests/{job.request_id}/instances/{part.item.id}"
        # A body that trickles never lets a read time out; what came of it is kept for the next try.
        missing_bytes = part.item.size_bytes - part.size
        longest_s = self._client.settings.read_timeout_s + missing_bytes / SLOWEST_BYTES_PER_S
        try:
            with (
                TimeLimit(longest_s),
                self._client.call("GET", path, headers=headers, stream=True) as response,
            ):
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

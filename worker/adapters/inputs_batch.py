"""Several images in one answer of the site, where it offers that: calls cost more than images.

A batch is only a short cut. Whatever is wrong with it, the images that it did not bring are fetched
one by one, and what is wrong is told there.
"""

from __future__ import annotations

import hashlib
import logging
import tarfile
from collections.abc import Generator, Iterator, Mapping
from itertools import islice
from pathlib import Path

import requests

from worker.adapters.http_client import (
    SLOWEST_BYTES_PER_S,
    HttpClient,
    network_sentence,
    raise_for_status,
)
from worker.adapters.http_limit import TimeLimit
from worker.core.errors import ServerUnavailable, WorkerError
from worker.core.job import InputInstance, Job

logger = logging.getLogger(__name__)

Wanted = Mapping[Path, InputInstance]

# Little enough that a cut costs little, and that several connections have something to do.
_BATCH_BYTES = 2_000_000
_CHUNK_BYTES = 1 << 16
_BLOCK = tarfile.BLOCKSIZE


def plan_batches(wanted: Wanted, *, at_once: int) -> Iterator[dict[Path, InputInstance]]:
    """Divide what is wanted, in its order; a large image is alone in its batch.

    Parameters
    ----------
    at_once : int
        Images that the site gives in one answer, at most.
    """
    batch: dict[Path, InputInstance] = {}
    left = _BATCH_BYTES
    for path, item in wanted.items():
        if batch and (len(batch) >= at_once or item.size_bytes > left):
            yield batch
            batch, left = {}, _BATCH_BYTES
        batch[path] = item
        left -= item.size_bytes
    if batch:
        yield batch


class Batches:
    """The batches of one job; once one brought nothing, no more are asked for."""

    def __init__(self, client: HttpClient, job: Job) -> None:
        self._client = client
        self._job = job
        self._are_worth_it = True

    def fetch(self, batch: Wanted) -> Generator[tuple[Path, bytes]]:
        """Fetch a batch in one call; give each image as it comes, if it is as it was promised.

        What ends early, or holds something else, gives what came before.
        """
        if len(batch) < 2 or not self._are_worth_it:
            return
        waiting = {item.id: (path, item) for path, item in batch.items()}
        is_fruitless = True
        try:
            for name, data in self._ask([item for _, item in waiting.values()]):
                path, item = waiting[name]
                if hashlib.sha256(data).hexdigest() == item.sha256.lower():
                    is_fruitless = False
                    yield path, data
        except WorkerError as error:
            fields = {"request_id": self._job.request_id, "reason": error.message}
            logger.info("images_one_by_one", extra=fields)
        if is_fruitless:
            self._are_worth_it = False

    def _ask(self, items: list[InputInstance]) -> Iterator[tuple[str, bytes]]:
        settings, job = self._client.settings, self._job
        expected_bytes = sum(item.size_bytes for item in items)
        try:
            with (
                # A body that trickles never lets a read time out.
                TimeLimit(settings.read_timeout_s + expected_bytes / SLOWEST_BYTES_PER_S),
                self._client.call(
                    "POST",
                    f"requests/{job.request_id}/instances/",
                    json={"instance_ids": [item.id for item in items]},
                    headers={
                        "If-Match": f'"{job.lease.id}"',
                        "Accept": "application/x-tar",
                        "Accept-Encoding": "identity",
                    },
                    stream=True,
                ) as response,
            ):
                raise_for_status(response)
                sizes = {item.id: item.size_bytes for item in items}
                yield from read_archive(response.iter_content(_CHUNK_BYTES), sizes)
        except requests.RequestException as error:
            raise ServerUnavailable(network_sentence(settings.url, error)) from error


def read_archive(chunks: Iterator[bytes], sizes: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    """Give name and content of each file of a tar archive, as it comes.

    Not by `tarfile` itself, which believes what a header says of lengths and of further headers.
    Here a header that is not of a file that was promised, of the size that was promised, ends it.

    Parameters
    ----------
    chunks : iterator of bytes
    sizes : mapping of str to int
        What was promised, by name; each is given once.

    Raises
    ------
    ServerUnavailable
        Something else came, or too little.
    """
    buffered = bytearray()

    def take(count: int) -> bytes:
        while len(buffered) < count:
            chunk = next(chunks, None)
            if chunk is None:
                raise ServerUnavailable("The site's answer is no whole archive of images.")
            buffered.extend(chunk)
        taken = bytes(buffered[:count])
        del buffered[:count]
        return taken

    left = dict(sizes)
    while any(header := take(_BLOCK)):
        try:
            member = tarfile.TarInfo.frombuf(header, "ascii", "strict")
        except (tarfile.HeaderError, ValueError):
            member = tarfile.TarInfo()
        size = left.pop(member.name, None)
        if size is None or member.size != size or member.type != tarfile.REGTYPE:
            raise ServerUnavailable("The site's answer is no whole archive of images.")
        data = take(size)
        take(-size % _BLOCK)
        yield member.name, data
    for _ in islice(chunks, 2):
        pass  # what pads the archive: read to its end, the connection serves the next call

"""Several images in one answer of the site, where it offers that: calls cost more than images.

A batch is only a short cut. Whatever is wrong with it, the images that it did not bring are fetched
one by one, and what is wrong is told there.
"""

from __future__ import annotations

import hashlib
import io
import logging
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from worker.adapters.http_client import HttpClient, raise_for_status
from worker.core.errors import ServerUnavailable, WorkerError
from worker.core.job import InputInstance, Job

logger = logging.getLogger(__name__)

Wanted = Mapping[Path, InputInstance]

# Little enough that a cut costs little, and that several connections have something to do.
_BATCH_BYTES = 2_000_000


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


def fetch_batch(client: HttpClient, job: Job, batch: Wanted) -> Iterator[tuple[Path, bytes]]:
    """Fetch a batch in one call; give what came of it as it was promised, with its file.

    An archive that ends early, holds something else or names what nobody asked for gives what is
    right in it.
    """
    waiting = {item.id: (path, item) for path, item in batch.items()}
    for name, data in _ask(client, job, batch.values()):
        path, item = waiting.pop(name, (None, None))
        if path is None or item is None or len(data) != item.size_bytes:
            continue
        if hashlib.sha256(data).hexdigest() == item.sha256.lower():
            yield path, data


def _ask(
    client: HttpClient, job: Job, items: Iterable[InputInstance]
) -> Iterator[tuple[str, bytes]]:
    wanted = list(items)
    try:
        response = client.call(
            "POST",
            f"requests/{job.request_id}/instances/",
            json={"instance_ids": [item.id for item in wanted]},
            headers={"If-Match": f'"{job.lease.id}"', "Accept": "application/x-tar"},
            answer_bytes=sum(item.size_bytes for item in wanted),
        )
        raise_for_status(response)
        yield from _members(response.content)
    except WorkerError as error:
        extra = {"request_id": job.request_id, "images": len(wanted), "reason": str(error)}
        logger.info("images_one_by_one", extra=extra)


def _members(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """Give name and content of each file; nothing is ever unpacked by its name."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for member in tar:
                # A sparse file may say that it is any size.
                is_whole = member.isreg() and member.size <= len(archive)
                file = tar.extractfile(member) if is_whole else None
                if file is not None:
                    yield member.name, file.read()
    except (tarfile.TarError, OSError, ValueError) as error:
        raise ServerUnavailable("The site's answer is no whole archive of images.") from error

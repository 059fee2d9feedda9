"""Several server processes on one PostgreSQL and one bucket: none has a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from uuid import uuid4

import pytest

from benchmarks.queue_crowd import make_worker, post
from benchmarks.queue_http import post_to_claim
from benchmarks.queue_places import Place, Server, Told, open_place, serving
from benchmarks.queue_worker import Caller, LightWorker
from tests.support.object_store import ObjectStore
from tests.support.postgres import why_missing

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_missing()), reason=why_missing() or "PostgreSQL is installed"),
]


@pytest.fixture(scope="module")
def shared(object_store: ObjectStore) -> Iterator[tuple[Place, Told, list[Server]]]:
    bucket = object_store.make_bucket(f"shared-{uuid4().hex[:8]}")
    settings = {**object_store.environment, "SEGMENTATION_STORAGE": bucket}
    with open_place("postgresql", **settings) as place:
        told = place.set_up(workers=4)
        with serving(place, processes=2) as servers:
            yield place, told, servers


def test_what_one_process_takes_another_gives(shared: tuple[Place, Told, list[Server]]) -> None:
    place, told, (one, other) = shared
    with closing(Caller(one.port, told.user)) as page, _worker(other, told) as worker:
        request_id = post(page, told.series[0])
        job = worker.claim(wait_s=20)
        assert job is not None
        assert job["request_id"] == request_id
        assert worker.fetch(job) > 1000
        worker.upload(job, "preview.png", b"\x89PNG at the second process")
        assert worker.deliver(job) == "accepted"
    for port in (one.port, other.port):
        with closing(Caller(port, told.user)) as page:
            mask = page.call("GET", f"/requests/{request_id}/mask.dcm")
            assert mask.body[128:132] == b"DICM"
            status = page.call("GET", f"/status/{request_id}/").json()
            assert status["result"]["saved_to_pacs"] is True
    assert not any((place.folder / "site" / area).exists() for area in ("artifacts", "dicom"))


@contextmanager
def _worker(server: Server, told: Told) -> Iterator[LightWorker]:
    worker = make_worker(0, [server], told)
    yield worker
    worker.caller.close()


def test_a_post_at_one_process_wakes_a_worker_at_another(
    shared: tuple[Place, Told, list[Server]],
) -> None:
    _, told, (one, other) = shared
    seconds = post_to_claim(told, one, [other], posts=4, workers=2)
    assert len(seconds) == 4
    assert max(seconds) < 20  # the look of every quarter of a second, not the end of a wait

"""Threads that want the same thing at the same time, on a database that commits."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, connections
from django.db.models import Count

from django_queue_app import legacy, services, tokens
from django_queue_app.errors import ServiceError
from django_queue_app.models import ApiToken, Attempt, SegmentationRequest
from tests.support.queue_driver import RESULT, Queue, make_series_id

pytestmark = pytest.mark.django_db(transaction=True)
THREADS = 8
Work = Callable[[int], Any]


def at_once(work: Work, count: int = THREADS) -> list[Any]:
    """Run `work(0..count-1)` in threads that start together; return what they returned."""
    gate = threading.Barrier(count)

    def run(number: int) -> Any:
        try:
            gate.wait(timeout=30)
            return work(number)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.fixture
def queue(transactional_db: None) -> Queue:
    return Queue()


def worker_of(token: ApiToken) -> services.WorkerInfo:
    return services.WorkerInfo(name=token.name)


def test_threads_are_really_served_by_a_shared_database(queue: Queue) -> None:
    assert connection.vendor != "sqlite" or not connection.is_in_memory_db()
    queue.file()
    assert at_once(lambda _: SegmentationRequest.objects.count()) == [1] * THREADS


def test_no_request_is_given_to_two_and_none_is_forgotten(queue: Queue) -> None:
    filed = {queue.file().pk for _ in range(40)}
    workers = [queue.token() for _ in range(THREADS)]

    def drain(number: int) -> list[uuid.UUID]:
        token, taken = workers[number], []
        while True:
            request = services.claim(
                token=token, lease_id=uuid.uuid4(), worker=worker_of(token), now=queue.now
            )
            if request is None:
                return taken
            assert request.lease_id is not None
            taken.append(request.pk)
            services.complete(
                request_id=request.pk,
                lease_id=request.lease_id,
                token=token,
                result=RESULT,
                artifacts={},
                now=queue.now,
            )

    taken = Counter(key for part in at_once(drain) for key in part)
    assert set(taken) == filed
    assert set(taken.values()) == {1}
    assert set(SegmentationRequest.objects.values_list("status", flat=True)) == {"completed"}


def test_one_request_is_granted_once(queue: Queue) -> None:
    queue.file()
    workers = [queue.token() for _ in range(THREADS)]
    granted = at_once(
        lambda n: services.claim(
            token=workers[n],
            lease_id=uuid.uuid4(),
            worker=worker_of(workers[n]),
            now=queue.now,
        )
    )
    assert sum(request is not None for request in granted) == 1
    assert Attempt.objects.count() == 1


def test_one_key_sent_many_times_at_once_is_one_claim(queue: Queue) -> None:
    for _ in range(THREADS):
        queue.file()
    token, lease_id = queue.token(), uuid.uuid4()
    granted = at_once(
        lambda _: services.claim(
            token=token, lease_id=lease_id, worker=worker_of(token), now=queue.now
        )
    )
    assert len({request.pk for request in granted}) == 1
    assert Attempt.objects.count() == 1
    assert SegmentationRequest.objects.filter(status="processing").count() == 1


def test_one_expired_lease_is_reaped_once(queue: Queue) -> None:
    queue.file()
    queue.take(queue.token())
    queue.pass_time(91)
    workers = [queue.token() for _ in range(THREADS)]
    granted = at_once(
        lambda n: services.claim(
            token=workers[n],
            lease_id=uuid.uuid4(),
            worker=worker_of(workers[n]),
            now=queue.now,
        )
    )
    assert sum(request is not None for request in granted) == 1
    request = SegmentationRequest.objects.get()
    assert request.attempt_count == 2
    assert request.events.filter(reason="lease_expired").count() == 1


def test_of_many_results_one_wins(queue: Queue) -> None:
    queue.file()
    jobs = []
    for _ in range(3):
        jobs.append(queue.take(queue.token()))
        queue.pass_time(91)
    outcomes = at_once(lambda n: jobs[n].complete(result={"number": n}), len(jobs))
    assert sorted(outcomes) == ["accepted", "superseded", "superseded"]
    request = SegmentationRequest.objects.get()
    assert request.result == {"number": outcomes.index("accepted")}
    assert request.events.filter(to_status="completed").count() == 1


def test_cancel_against_complete_has_one_winner(queue: Queue) -> None:
    for _ in range(5):
        queue.file()
        job = queue.take(queue.token())

        def end(number: int, job: Any = job) -> bool:
            try:
                if number == 0:
                    services.cancel(request_id=job.request_id, actor="doctor", now=queue.now)
                else:
                    job.complete()
            except ServiceError:
                return False
            return True

        assert sorted(at_once(end, 2)) == [False, True]
        ends = job.request.events.filter(to_status__in=["completed", "cancelled"])
        assert [event.to_status for event in ends] == [job.request.status]


def test_many_clicks_at_once_are_one_request(queue: Queue) -> None:
    main = make_series_id(1)
    filed = at_once(lambda _: queue.filed(main_series_id=main))
    assert len({answer.request.pk for answer in filed}) == 1
    assert sum(not answer.is_deduplicated for answer in filed) == 1
    assert SegmentationRequest.objects.count() == 1


def test_existing_and_new_workers_never_share_a_request(queue: Queue) -> None:
    for _ in range(16):
        queue.file()
    workers = [queue.token() for _ in range(THREADS)]

    def take(number: int) -> list[uuid.UUID]:
        token, taken = workers[number], []
        for _ in range(4):
            try:
                request = take_one(token, is_legacy=number % 2 == 0)
            except ServiceError:
                continue
            if request is not None:
                taken.append(request.pk)
        return taken

    def take_one(token: ApiToken, *, is_legacy: bool) -> SegmentationRequest | None:
        if not is_legacy:
            return services.claim(
                token=token, lease_id=uuid.uuid4(), worker=worker_of(token), now=queue.now
            )
        shown = legacy.offer(token=token, now=queue.now)
        return shown and legacy.start(token=token, request_id=shown.pk, now=queue.now)

    taken = [key for part in at_once(take) for key in part]
    assert len(taken) == len(set(taken)) == 16
    assert not SegmentationRequest.objects.annotate(n=Count("attempts")).filter(n__gt=1).exists()


def test_a_name_is_given_to_one_token(queue: Queue) -> None:
    def create(_number: int) -> bool:
        try:
            tokens.create(name="lab-pc", kind="worker", lane="lab")
        except ServiceError:
            return False
        return True

    assert sum(at_once(create)) == 1

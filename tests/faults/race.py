"""Many processes empty one queue while some of them are killed; nothing lost, nothing doubled.

    python -m tests.faults.race --jobs 2000 --database sqlite
    python -m tests.faults.race --jobs 2000 --database postgresql

It prints what happened and ends with 1 unless lost and doubled are 0.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack
from itertools import pairwise
from multiprocessing.process import BaseProcess
from typing import Any

# Long beside the milliseconds of one job, so that only a killed worker's lease runs out.
LEASE_S = 10
LIMIT_S = 540


def main() -> int:
    """Run the race as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="race-"))
        os.environ["SEGMENTATION_DATA_DIR"] = folder
        os.environ["DJANGO_SETTINGS_MODULE"] = "reference_site.settings"
        os.environ["SEGMENTATION_LEASE_SECONDS"] = str(LEASE_S)
        os.environ["SEGMENTATION_MAX_ATTEMPTS"] = str(options.kills + 3)
        os.environ["LOG_LEVEL"] = "ERROR"
        os.environ.pop("DATABASE_URL", None)
        # Each process has one thread, so one connection of its own and no pool.
        os.environ["DATABASE_CONNECTIONS"] = "0"
        if options.database == "postgresql":
            from tests.support.postgres import Cluster

            cluster = stack.enter_context(Cluster({"fsync": "off"}))
            cluster.start()
            os.environ["DATABASE_URL"] = cluster.create_database()
        told = race(options)
    print(json.dumps(told))
    return int(bool(told["lost"] or told["doubled"] or told["killed"] < options.kills))


def race(options: argparse.Namespace) -> dict[str, Any]:
    """File the jobs, let the workers loose, kill some, and audit what is in the database."""
    import django

    django.setup()
    filed = _file(options.jobs)
    context = multiprocessing.get_context("fork")
    began = time.monotonic()

    def start() -> BaseProcess:
        worker = context.Process(target=_work, args=(uuid.uuid4().hex,))
        worker.start()
        return worker

    workers = [start() for _ in range(options.workers)]
    killed = _kill_some(workers, start, random.Random(options.seed), options)
    for worker in workers:
        worker.join(max(1.0, LIMIT_S - (time.monotonic() - began)))
        if worker.is_alive():
            worker.kill()
    seconds = round(time.monotonic() - began, 1)
    return {
        "database": options.database,
        "workers": options.workers,
        "killed": killed,
        "seconds": seconds,
        **_audit(filed),
    }


def _kill_some(
    workers: list[BaseProcess], start: Any, dice: random.Random, options: argparse.Namespace
) -> int:
    """Kill workers while there is work, each replaced by a new one; return how many died so."""
    from django.db import connections

    from django_queue_app.models import SegmentationRequest

    killed = 0
    for number in range(options.kills):
        due = options.jobs * (number + 1) // (options.kills + 2)
        while SegmentationRequest.objects.filter(status="completed").count() < due:
            time.sleep(0.02)
        connections.close_all()  # or the fork below would share this connection
        place = dice.randrange(len(workers))
        if workers[place].pid is not None and workers[place].is_alive():
            os.kill(workers[place].pid, signal.SIGKILL)
            workers[place].join()
            killed += 1
        workers[place] = start()
    return killed


def _file(count: int) -> set[uuid.UUID]:
    from django.core.management import call_command
    from django.db import connections

    from django_queue_app import services
    from tests.support.queue_driver import make_series_id

    call_command("migrate", verbosity=0)
    filed = {
        services.file_request(
            main_series_id=make_series_id(number),
            series_ids=[make_series_id(number)],
            lane="lab",
            requested_by="race",
        ).request.pk
        for number in range(count)
    }
    connections.close_all()
    return filed


def _work(name: str) -> None:
    """Claim and complete until no request is active."""
    from django.db import OperationalError

    from django_queue_app import services
    from django_queue_app.errors import LeaseNotCurrent, RequestFinished
    from django_queue_app.models import SegmentationRequest

    token = _token(name)
    info = services.WorkerInfo(name=name)
    lease_id = uuid.uuid4()
    while True:
        try:
            request = services.claim(token=token, lease_id=lease_id, worker=info)
            if request is not None:
                services.complete(
                    request_id=request.pk,
                    lease_id=lease_id,
                    token=token,
                    result={"by": str(lease_id)},
                    artifacts={},
                )
                lease_id = uuid.uuid4()
            elif not SegmentationRequest.objects.active().exists():
                return
            else:
                time.sleep(0.2)
        except OperationalError:  # a 503 over HTTP: the same call again
            time.sleep(0.05)
        except (LeaseNotCurrent, RequestFinished):
            lease_id = uuid.uuid4()


def _token(name: str) -> Any:
    """Make the worker's token; SQLite may let nobody new write while all others hammer on it."""
    from django.db import OperationalError

    from django_queue_app import tokens

    while True:
        try:
            return tokens.create(name=name, kind="worker", lane="lab")[0]
        except OperationalError:
            time.sleep(0.05)


def _audit(filed: set[uuid.UUID]) -> dict[str, Any]:
    from django_queue_app.models import Attempt, SegmentationRequest

    rows = {row.pk: row for row in SegmentationRequest.objects.prefetch_related("attempts")}
    doubled = late = 0
    for row in rows.values():
        attempts = sorted(row.attempts.all(), key=lambda attempt: attempt.number)
        for one, following in pairwise(attempts):
            is_over = one.ended_at is not None and one.ended_at <= following.started_at
            # A worker that waited for SQLite longer than its lease brings its result late, and it
            # counts: then, and only then, the next run began before this one's end.
            is_late = one.outcome == Attempt.Outcome.COMPLETED and (
                following.outcome == Attempt.Outcome.SUPERSEDED
            )
            late += not is_over and is_late
            doubled += not is_over and not is_late
        completed = [one for one in attempts if one.outcome == Attempt.Outcome.COMPLETED]
        doubled += max(0, len(completed) - 1)
        doubled += row.events.filter(to_status="completed", reason__startswith="compl").count() > 1
    lost = [key for key in filed if key not in rows or rows[key].status != "completed"]
    return {
        "jobs": len(filed),
        "runs": Attempt.objects.count(),
        "lost": len(lost),
        "late": late,
        "doubled": doubled,
    }


if __name__ == "__main__":
    sys.exit(main())

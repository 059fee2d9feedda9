"""Claims with completion per second of queues on one database, each worker a process of its own.

    python -m benchmarks.queue_service --database postgresql --workers 1 4 16 --seconds 3

Run by `benchmarks.queue_load` in a site's environment. Kinds and numbers of workers take turns
within each repeat, so that a slow minute of the machine meets all of them. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from contextlib import suppress
from typing import Any

import django

from benchmarks.queue_figures import Row, over_repeats, quantiles_ms
from benchmarks.queue_kinds import Kind, kinds

# More than any of the queues takes in a second on this kind of machine.
JOBS_PER_SECOND = 2500
_fork = multiprocessing.get_context("fork")  # 64 imports of Django would take a minute


def measure(kind: Kind, *, workers: int, seconds: float) -> Row:
    """Let workers, each warm after a job, take and finish jobs for a while."""
    from django.db import connections

    kind.fill(int(JOBS_PER_SECOND * seconds))
    connections.close_all()
    barrier = _fork.Barrier(workers)
    pipes = [_fork.Pipe(duplex=False) for _ in range(workers)]
    children = [
        _fork.Process(target=_work, args=(kind, number, seconds, barrier, sender))
        for number, (_, sender) in enumerate(pipes)
    ]
    for child in children:
        child.start()
    for _, sender in pipes:
        sender.close()
    told = [receiver.recv() for receiver, _ in pipes]
    for child in children:
        child.join()
    claims = [one for answer in told for one in answer["claims"]]
    return {
        "queue": kind.name,
        "workers": workers,
        "jobs_per_s": sum(len(answer["claims"]) / answer["wall_s"] for answer in told),
        **quantiles_ms(claims),
        "cpu_ms_per_job": 1000 * sum(answer["cpu_s"] for answer in told) / max(1, len(claims)),
        "errors": sum(answer["errors"] for answer in told),
    }


def _work(kind: Kind, number: int, seconds: float, barrier: Any, sender: Any) -> None:
    from django.db import DatabaseError

    take = kind.worker(number)
    claims: list[float] = []
    errors = 0
    with suppress(DatabaseError):
        take()  # what a process builds at its first job is not the queue's doing
    barrier.wait()
    cpu, began = _cpu_s(), time.perf_counter()
    while time.perf_counter() - began < seconds:
        try:
            taken = take()
        except DatabaseError:
            errors += 1
            continue
        if taken is None:
            break
        claims.append(taken)
    wall_s = time.perf_counter() - began
    sender.send({"claims": claims, "wall_s": wall_s, "cpu_s": _cpu_s() - cpu, "errors": errors})


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def compare(database: str, *, workers: list[int], seconds: float, repeats: int) -> list[Row]:
    """Measure every kind with every number of workers, in turns."""
    rows: dict[tuple[int, str], list[Row]] = {}
    compared = kinds(database)
    for _ in range(repeats):
        for count in workers:
            for kind in compared:
                row = measure(kind, workers=count, seconds=seconds)
                rows.setdefault((count, kind.name), []).append(row)
    return [{"database": database, **over_repeats(repeated)} for repeated in rows.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", required=True)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    django.setup()
    rows = compare(
        options.database,
        workers=options.workers,
        seconds=options.seconds,
        repeats=options.repeats,
    )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()

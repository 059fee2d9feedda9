"""The simulation against the real site, with workers that sleep instead of inferring.

The same requests, with the same moments and the same service times, go through both, so that what
is compared is not chance: the spread between seeds is several times the difference that is looked
for. A job keeps its worker for the time that was drawn, and for what the site's calls cost besides:
the mean of that is measured in the same run, between jobs that were waiting, and the simulation
adds it to each job. A wait begins when the POST is answered.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks import queueing
from benchmarks.queue_crowd import make_worker, post, side_by_side
from benchmarks.queue_figures import Row, quantile
from benchmarks.queue_places import Server, Told, open_place, serving
from benchmarks.queue_worker import Caller
from benchmarks.queueing import Case

WORKERS = 4
SERVICE_S = 2.0
BUSY = 0.85  # enough that requests wait for each other, not only for the site
TOLERANCE = 0.15
WAIT_S = 10


def check(*, jobs: int, seeds: int) -> tuple[list[Row], bool]:
    """Run each seed through the site and the simulation; tell whether they agree.

    Returns
    -------
    tuple of list and bool
        A row for each seed and one for all waits together; whether that one is within 15 %.
    """
    measured: list[float] = []
    simulated: list[float] = []
    rows: list[Row] = []
    with open_place("postgresql") as place:
        told = place.set_up(workers=WORKERS)
        with serving(place) as servers:
            run_cases(servers[0], told, draw(10, seed=0))  # the first calls import and connect
            for seed in range(1, seeds + 1):
                cases = draw(jobs, seed=seed)
                waits, moments, besides_s = run_cases(servers[0], told, cases)
                again = queueing.simulate(
                    [
                        Case(arrival_s=moment, service_s=one.service_s + besides_s)
                        for moment, one in zip(moments, cases, strict=True)
                    ],
                    WORKERS,
                )
                rows.append(_row(f"seed {seed}", again, waits, besides_s))
                measured += waits
                simulated += again
    rows.append(_row("together", simulated, measured, ""))
    return rows, abs(rows[-1]["difference"]) <= TOLERANCE


def draw(count: int, *, seed: int) -> list[Case]:
    """Draw requests that keep the workers busy for a given share of the time."""
    rate = BUSY * WORKERS / SERVICE_S
    return queueing.draw_cases(
        rate_per_s=lambda _: rate,
        peak_per_s=rate,
        service=queueing.lognormal(SERVICE_S, 0.5),
        count=count,
        seed=seed,
    )


def _row(name: str, simulated: Sequence[float], waits: Sequence[float], besides_s: Any) -> Row:
    expected, seen = quantile(simulated, 0.95), quantile(waits, 0.95)
    return {
        "requests": name,
        "count": len(waits),
        "besides_s": besides_s,
        "simulated_p95_s": expected,
        "measured_p95_s": seen,
        "difference": (seen - expected) / expected if expected else 0.0,
    }


@dataclass(frozen=True, kw_only=True)
class Run:
    """One job at one worker: when its call to claim returned, and when it was done with it."""

    request_id: str
    worker: int
    claimed_at: float
    slept_s: float
    done_at: float


def run_cases(
    server: Server, told: Told, cases: Sequence[Case]
) -> tuple[list[float], list[float], float]:
    """File the requests at their moments while the workers work.

    Returns
    -------
    tuple of list, list and float
        The wait of each request in the order of filing; the moments at which they really were
        filed; the seconds that a job kept its worker beside its own time.
    """
    start = time.time() + 1.0
    over = start + cases[-1].arrival_s + 60.0
    services = [case.service_s for case in cases]
    # The oldest request goes first, so the n-th claim is of the n-th request.
    claims = multiprocessing.get_context("fork").Value("i", 0)
    calls: list[tuple[Any, ...]] = [
        (number, server, told, services, claims, over) for number in range(WORKERS)
    ]
    calls.append((-1, server, told, list(cases), start, over))
    results = [one for share in side_by_side(_take_part, calls) for one in share]
    runs = [one for one in results if isinstance(one, Run)]
    posted = dict(one for one in results if not isinstance(one, Run))
    runs.sort(key=lambda run: posted[run.request_id])
    waits = [max(0.0, run.claimed_at - posted[run.request_id]) for run in runs]
    moments = [moment - start for moment in sorted(posted.values())]
    return waits, moments, _besides_s(runs, posted)


def _besides_s(runs: Sequence[Run], posted: Mapping[str, float]) -> float:
    """Return the mean seconds from claim to claim beyond the job, where the next one waited."""
    besides = []
    for worker in range(WORKERS):
        own = sorted((run for run in runs if run.worker == worker), key=lambda run: run.claimed_at)
        besides += [
            following.claimed_at - run.claimed_at - run.slept_s
            for run, following in pairwise(own)
            if posted[following.request_id] < run.done_at
        ]
    return statistics.fmean(besides) if besides else 0.0


def _take_part(
    number: int, server: Server, told: Told, what: list[Any], other: Any, over: float
) -> list[Any]:
    if number < 0:
        return _file(server, told, what, other)
    return _work(number, server, told, what, other, over)


def _file(server: Server, told: Told, cases: list[Case], start: float) -> list[tuple[str, float]]:
    caller = Caller(server.port, told.user)
    posted = []
    for case in cases:
        time.sleep(max(0.0, start + case.arrival_s - time.time()))
        key = post(caller, told.series[0])
        posted.append((key, time.time()))
    return posted


def _work(
    number: int, server: Server, told: Told, services: list[float], claims: Any, over: float
) -> list[Run]:
    """Take jobs until there are none."""
    worker = make_worker(number, [server], told)
    runs: list[Run] = []
    while claims.value < len(services) and time.time() < over:
        job = worker.claim(wait_s=WAIT_S)
        if job is None:
            continue
        claimed = time.time()
        with claims.get_lock():
            mine = claims.value
            claims.value += 1
        time.sleep(services[mine])
        worker.give_up(job)
        runs.append(
            Run(
                request_id=job["request_id"],
                worker=number,
                claimed_at=claimed,
                slept_s=services[mine],
                done_at=time.time(),
            )
        )
    return runs

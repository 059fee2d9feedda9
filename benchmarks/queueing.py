"""Queueing: a simulation of requests and workers, and the formula that it must agree with.

One queue, c workers, first come first served. Arrivals are a Poisson process whose rate may change
over the day; service times are drawn from those that were measured, or follow a distribution.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import simpy

from benchmarks.queue_figures import quantile

HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request: when it is filed, and how long it keeps a worker."""

    arrival_s: float
    service_s: float


def erlang_c(workers: int, load: float) -> float:
    """Return the probability that a request has to wait in M/M/c; 1 if the load is too much.

    Parameters
    ----------
    workers : int
        c.
    load : float
        Arrival rate times mean service time, in erlangs.
    """
    if load >= workers:
        return 1.0
    blocked = 1.0  # Erlang B, by its recursion: factorials of 10,000 don't fit in a float
    for count in range(1, workers + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked / (1 - load / workers * (1 - blocked))


def erlang_wait_s(workers: int, rate_per_s: float, service_s: float, share: float) -> float:
    """Return the wait that `share` of the requests don't exceed in M/M/c; infinite if too much."""
    waiting = erlang_c(workers, rate_per_s * service_s)
    if rate_per_s * service_s >= workers:
        return math.inf
    if waiting <= 1 - share:
        return 0.0
    return math.log(waiting / (1 - share)) / (workers / service_s - rate_per_s)


def draw_cases(
    *,
    rate_per_s: Callable[[float], float],
    peak_per_s: float,
    service: Callable[[random.Random], float],
    count: int,
    seed: int,
) -> list[Case]:
    """Draw requests of a Poisson process by thinning (Lewis and Shedler, 1979)."""
    random_ = random.Random(seed)
    cases: list[Case] = []
    now = 0.0
    while len(cases) < count:
        now += random_.expovariate(peak_per_s)
        if random_.random() * peak_per_s <= rate_per_s(now):
            cases.append(Case(arrival_s=now, service_s=service(random_)))
    return cases


def lognormal(mean_s: float, variation: float) -> Callable[[random.Random], float]:
    """Return a drawer of times with this mean and coefficient of variation; 0: always the mean."""
    if variation == 0:
        return lambda _: mean_s
    sigma2 = math.log(1 + variation**2)
    mu = math.log(mean_s) - sigma2 / 2
    return lambda random_: random_.lognormvariate(mu, math.sqrt(sigma2))


def measured(times_s: Sequence[float]) -> Callable[[random.Random], float]:
    """Return a drawer of times that were seen."""
    return lambda random_: random_.choice(times_s)


def simulate(cases: Sequence[Case], workers: int) -> list[float]:
    """Return the wait of each request, in their order."""
    environment = simpy.Environment()
    staff = simpy.Resource(environment, capacity=workers)
    waits = [0.0] * len(cases)

    def live(number: int, case: Case):  # type: ignore[no-untyped-def]
        with staff.request() as turn:
            yield turn
            waits[number] = environment.now - case.arrival_s
            yield environment.timeout(case.service_s)

    def arrive():  # type: ignore[no-untyped-def]
        for number, case in enumerate(cases):
            yield environment.timeout(case.arrival_s - environment.now)
            environment.process(live(number, case))

    environment.process(arrive())
    environment.run()
    return waits


def p95_over_seeds(
    draw: Callable[[int], list[Case]], workers: int, seeds: Sequence[int]
) -> list[float]:
    """Return the 95th percentile of the wait for each seed."""
    return [quantile(simulate(draw(seed), workers), 0.95) for seed in seeds]


def fewest_workers(p95_wait_s: Callable[[int], float], wanted_s: float, least: int) -> int:
    """Return the least number of workers, from `least` on, whose wait is short enough.

    More workers never make the wait longer, so the answer is found by doubling and halving.
    """
    high = max(1, least)
    while p95_wait_s(high) > wanted_s:
        high *= 2
    low = max(least, high // 2)
    while low < high:
        middle = (low + high) // 2
        if p95_wait_s(middle) <= wanted_s:
            high = middle
        else:
            low = middle + 1
    return high

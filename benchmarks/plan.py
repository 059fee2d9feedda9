"""How many workers an arrival rate needs, by simulation; and whether the simulation is right.

    python -m benchmarks.plan --arrivals-per-hour 120 --service-s 45 --p95-wait-s 60
    python -m benchmarks.plan --arrivals-per-hour 120 --service-file seconds.txt --p95-wait-s 60
    python -m benchmarks.plan --check

`--service-file` has measured seconds, one a line (the figures of `benchmarks.whole_path`, or the
attempts of a running site); otherwise times are lognormal around `--service-s`. With `--day` the
rate follows a hospital's day: nothing at night, a peak at eleven; the given rate is the mean of 24
hours.

`--check` runs the real site with workers that sleep instead of inferring, and compares.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import queueing
from benchmarks.queue_figures import Row, table
from benchmarks.queueing import HOUR_S, Case

# Share of a day's requests in each hour, from midnight: a peak at eleven, a second one at three.
DAY = (0, 0, 0, 0, 0, 0, 1, 4, 9, 12, 14, 15, 9, 10, 13, 14, 10, 6, 4, 2, 1, 1, 0, 0)


def day_rate(mean_per_s: float) -> tuple[Callable[[float], float], float]:
    """Return the rate at a moment of the day, and its peak."""
    hours = [mean_per_s * 24 * share / sum(DAY) for share in DAY]
    return lambda now: hours[int(now / HOUR_S) % 24], max(hours)


def make_draw(options: argparse.Namespace) -> tuple[Callable[[int], list[Case]], float, float]:
    """Return what draws the requests of a seed, the peak rate per second and the mean service."""
    mean = options.arrivals_per_hour / HOUR_S
    rate, peak = day_rate(mean) if options.day else ((lambda _: mean), mean)
    if options.service_file:
        times = [float(line) for line in options.service_file.read_text().split()]
        service, service_s = queueing.measured(times), statistics.fmean(times)
    else:
        service_s = options.service_s
        service = queueing.lognormal(service_s, options.service_cv)

    # Less than a day would leave its peak out.
    count = max(options.requests, round(24 * options.arrivals_per_hour) if options.day else 0)

    def draw(seed: int) -> list[Case]:
        return queueing.draw_cases(
            rate_per_s=rate, peak_per_s=peak, service=service, count=count, seed=seed
        )

    return draw, peak, service_s


def answer(options: argparse.Namespace) -> Row:
    """Return how many workers it takes."""
    draw, peak, service_s = make_draw(options)
    seeds = range(1, options.seeds + 1)
    drawn = {seed: draw(seed) for seed in seeds}

    def p95(workers: int) -> list[float]:
        return queueing.p95_over_seeds(drawn.__getitem__, workers, seeds)

    mean_load = options.arrivals_per_hour / HOUR_S * service_s
    workers = queueing.fewest_workers(
        lambda count: statistics.median(p95(count)),
        options.p95_wait_s,
        least=math.floor(mean_load) + 1,
    )
    waits = p95(workers)
    return {
        "arrivals_per_hour": options.arrivals_per_hour,
        "peak_per_hour": peak * HOUR_S,
        "service_s": service_s,
        "workers": workers,
        "busy_percent": 100 * mean_load / workers,
        "p95_wait_s": statistics.median(waits),
        "p95_wait_s_spread": [min(waits), max(waits)],
        "p95_wait_s_m_m_c": queueing.erlang_wait_s(workers, peak, service_s, 0.95),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arrivals-per-hour", type=float, default=120.0)
    parser.add_argument("--service-s", type=float, default=45.0)
    parser.add_argument("--service-cv", type=float, default=0.5, help="coefficient of variation")
    parser.add_argument("--service-file", type=Path)
    parser.add_argument("--p95-wait-s", type=float, default=60.0)
    parser.add_argument("--day", action="store_true")
    parser.add_argument("--requests", type=int, default=20_000, help="simulated for each seed")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--jobs", type=int, default=100, help="of each seed of --check")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.check:
        from benchmarks.plan_check import check

        rows, is_right = check(jobs=options.jobs, seeds=options.seeds)
        print(table("Simulated and measured p95 wait, of the same requests", rows))
    else:
        rows, is_right = [answer(options)], True
        print(table(f"Workers for a p95 wait of {options.p95_wait_s:g} s", rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0 if is_right else 1


if __name__ == "__main__":
    raise SystemExit(main())

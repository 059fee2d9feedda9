"""The queue under load, beside others, on SQLite and PostgreSQL in one run.

    python -m benchmarks.queue_load [--quick] [--json FILE] [--only PART...] [--history N...]
                                    [--workers N...] [--seconds S] [--repeats N]

Prints a table for each part; of what is repeated the median, least and most in brackets.
CPU is counted beside time, because time on a busy machine says little.

service    claim and completion by the service layer, each worker a process, beside procrastinate
           and django-tasks' database backend as raw queues
http       claim, upload and completion through HTTP at one server process
calls      CPU of the server for each kind of call
latency    from POST to claim with idle workers waiting
waiters    many workers waiting at one process: its CPU and its connections to the database
history    time of a claim beside a long history, with the query plans
polling    the existing script's 30 s polling, computed from its rule
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import queue_history, queue_http
from benchmarks.queue_figures import Row, over_repeats, table
from benchmarks.queue_places import DATABASES, Place, Told, open_place, serving

PARTS = ("service", "http", "calls", "latency", "waiters", "history", "polling")
EXISTING_POLL_S = 30.0
WAITING = 4  # workers that wait while somebody posts


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of everything."""

    workers: tuple[int, ...] = (1, 4, 16, 64)
    seconds: float = 4.0
    repeats: int = 3
    posts: int = 80
    calls: int = 200
    waiters: int = 300
    waiters_s: float = 70.0  # two rounds of waiting and resting
    history: tuple[int, ...] = (100, 10_000, 100_000)


QUICK = Plan(workers=(2,), seconds=0.3, repeats=1, posts=4, calls=2, waiters=0, history=(100, 500))


def polling_rows(workers: Sequence[int]) -> list[Row]:
    """Compute the wait of a request for workers that look every 30 s, each at its own moment.

    A request waits for the first of N looks that are spread evenly over the interval:
    P(wait > t) = (1 - t/30)^N.
    """

    def wait(share: float, count: int) -> float:
        return 1000 * EXISTING_POLL_S * (1 - (1 - share) ** (1 / count))

    return [
        {
            "idle workers": count,
            **{f"p{share}_ms": wait(share / 100, count) for share in (50, 95, 99)},
            "polls_per_s": count / EXISTING_POLL_S,
        }
        for count in workers
    ]


def run_service(place: Place, plan: Plan) -> list[Row]:
    """Compare raw queues."""
    numbers = [str(one) for one in plan.workers]
    arguments = ["--database", place.kind, "--seconds", str(plan.seconds)]
    arguments += ["--repeats", str(plan.repeats), "--workers", *numbers]
    rows: list[Row] = json.loads(place.run("benchmarks.queue_service", *arguments))
    return rows


def run_history(place: Place, plan: Plan) -> list[Row]:
    """Measure claims beside a history."""
    sizes = [str(one) for one in plan.history]
    rows: list[Row] = json.loads(place.run("benchmarks.queue_history", "--sizes", *sizes))
    return rows


def run_http(place: Place, told: Told, plan: Plan, parts: Sequence[str]) -> dict[str, list[Row]]:
    """Measure what needs a server."""
    measured: dict[str, list[Row]] = {}
    with serving(place) as servers:
        if "waiters" in parts and plan.waiters:
            row = queue_http.waiters(
                place, told, servers[0], count=plan.waiters, seconds=plan.waiters_s
            )
            measured["waiters"] = [row]
        if "latency" in parts:
            seconds = queue_http.post_to_claim(
                told, servers[0], servers, posts=plan.posts, workers=WAITING
            )
            measured["latency"] = [queue_http.latency_row(place.kind, seconds)]
        if "calls" in parts:
            measured["calls"] = queue_http.call_costs(place, told, servers[0], count=plan.calls)
        if "http" in parts:
            measured["http"] = [
                over_repeats(
                    [
                        queue_http.throughput(
                            place, told, servers, workers=count, seconds=plan.seconds
                        )
                        for _ in range(plan.repeats)
                    ]
                )
                for count in plan.workers
            ]
    return measured


def run(
    plan: Plan, parts: Sequence[str], databases: Sequence[str], tell: Callable[[str], None]
) -> dict[str, list[Row]]:
    """Measure the parts on each kind of database, one after the other."""
    measured: dict[str, list[Row]] = {part: [] for part in parts}
    for kind in databases:
        if {"service", "history"} & set(parts):
            # Workers in processes of their own hold one connection each.
            with open_place(kind, DATABASE_CONNECTIONS="0", CONN_MAX_AGE="600") as place:
                place.set_up(workers=max(plan.workers))
                if "service" in parts:
                    tell(f"{kind}: raw queues")
                    measured["service"] += run_service(place, plan)
                if "history" in parts:
                    tell(f"{kind}: history")
                    measured["history"] += run_history(place, plan)
        if {"http", "calls", "latency", "waiters"} & set(parts):
            with open_place(kind) as place:
                tell(f"{kind}: through HTTP")
                told = place.set_up(workers=max(WAITING, *plan.workers))
                for part, rows in run_http(place, told, plan, parts).items():
                    measured[part] += rows
    if "polling" in parts:
        measured["polling"] = polling_rows(plan.workers)
    return measured


def show(measured: dict[str, list[Row]]) -> str:
    """Write the tables."""
    titles = {
        "service": "Raw queues: jobs claimed and finished, and the time of a claim",
        "http": "Through HTTP at one process: claim, upload, complete",
        "calls": "CPU of the site for one call",
        "latency": "From POST to claim, idle workers waiting",
        "waiters": "Workers waiting at one process",
        "history": "A claim beside a history",
        "polling": "The existing script: waits computed from its rule, a look every 30 s",
    }
    texts = []
    for part, rows in measured.items():
        shown = [{name: row[name] for name in row if name != "plans"} for row in rows]
        texts.append(table(titles[part], shown))
        if part == "history" and rows:
            texts += [_plans_of(rows, kind) for kind in DATABASES]
            texts.append(f"\nwhole tables read: {queue_history.scans(rows) or 'none'}")
    return "\n".join(texts)


def _plans_of(rows: list[Row], kind: str) -> str:
    own = [row for row in rows if row["database"] == kind]
    if not own:
        return ""
    return "\n".join([f"\nplans on {kind} at {own[-1]['history']} rows", *own[-1]["plans"]])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--json", type=Path, help="write everything to this file, too")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--history", type=int, nargs="+", help="sizes, e.g. 100 1000000")
    parser.add_argument("--workers", type=int, nargs="+", help="numbers of workers to measure with")
    parser.add_argument("--seconds", type=float, help="length of each run of service and http")
    parser.add_argument("--repeats", type=int, help="of each run of service and http")
    parser.add_argument("--database", choices=DATABASES, help="only this kind")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else Plan()
    given = {
        "history": options.history and tuple(options.history),
        "workers": options.workers and tuple(options.workers),
        "seconds": options.seconds,
        "repeats": options.repeats,
    }
    plan = replace(plan, **{name: value for name, value in given.items() if value})
    databases = [options.database] if options.database else list(DATABASES)
    measured = run(plan, options.only, databases, _tell)
    print(show(measured))
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1), encoding="utf-8")
    return 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

"""What a number of hospitals and workers asks of a site, and what breaks first.

    python -m benchmarks.queue_load --only calls waiters --json figures.json
    python -m benchmarks.scale --figures figures.json --hospitals 1000 --workers 10000

Rates and sizes follow from the options, what a call costs from the figures. Each need is set
against what one machine of an ordinary kind has (the options); what is used up first stands first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plan import DAY
from benchmarks.queue_figures import Row, table
from benchmarks.queue_http import LONGEST_WAIT_S
from django_queue_app.hold import LONGEST_REST_S, ONE_SECOND_PER

DAY_S = 86_400.0
BEAT_S = 30.0  # a worker's heartbeat (CONTRACT 2.2)
BYTES_PER_PIXEL = 2
CONNECTIONS_PER_PROCESS = 8  # DATABASE_CONNECTIONS
YEAR_DAYS = 365


def needs(options: argparse.Namespace, calls: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return what is needed at the peak of the day beside what there is, the scarcest first."""
    cost = {row["call"]: row for row in calls if row["database"] == "postgresql"}
    rates = call_rates(options)
    site = {name: rate * cost[name]["site_cpu_ms"] / 1000 for name, rate in rates.items()}
    database = sum(rate * cost[name]["db_cpu_ms"] / 1000 for name, rate in rates.items())
    cores = sum(site.values())
    processes = max(1, round(cores / options.busy + 0.5))
    downloaded = rates["download of a slice"] * slice_bytes(options)
    per_year = options.hospitals * options.requests_per_day * YEAR_DAYS * series_bytes(options)
    dearest = max(site, key=lambda name: site[name])
    rows: list[Row] = [
        _row(f"site CPU (most: {dearest})", cores, options.cores, "cores"),
        _row("database CPU", database, options.cores, "cores"),
        _row(
            "database connections",
            processes * CONNECTIONS_PER_PROCESS,
            options.connections,
            "connections",
        ),
        _row("bandwidth to the labs", downloaded * 8 / 1e9, options.gbit, "Gbit/s"),
        _row("open sockets of waiting workers", idle_workers(options), options.sockets, "sockets"),
        _row("storage of one year", per_year / 1e12, options.terabytes, "TB"),
        _row("workers busy", busy_workers(options), options.workers, "workers"),
    ]
    return sorted(rows, key=lambda row: row["used_percent"], reverse=True)


def call_rates(options: argparse.Namespace) -> Row:
    """Return the calls per second of each kind at the peak."""
    requests = peak_per_s(options)
    return {
        "empty poll": idle_workers(options) / (LONGEST_WAIT_S + rest_s(options)),
        "POST": requests,
        "claim": requests,
        "heartbeat": busy_workers(options) / BEAT_S,
        "download of a slice": requests * options.series * options.slices,
        "upload, complete": requests,
    }


def peak_per_s(options: argparse.Namespace) -> float:
    """Return the requests per second in the fullest hour of the day."""
    mean = options.hospitals * options.requests_per_day / DAY_S
    return float(mean * max(DAY) * 24 / sum(DAY))


def busy_workers(options: argparse.Namespace) -> float:
    """Return how many workers have a job at the peak; no more than there are."""
    return float(min(options.workers, peak_per_s(options) * options.service_s))


def idle_workers(options: argparse.Namespace) -> float:
    """Return how many wait for one."""
    return options.workers - busy_workers(options)


def rest_s(options: argparse.Namespace) -> float:
    """Return how long a worker is asked to rest between two waits: a crowd at one process more."""
    crowd = idle_workers(options) / options.cores
    return float(min(crowd // ONE_SECOND_PER, LONGEST_REST_S))


def slice_bytes(options: argparse.Namespace) -> int:
    """Return the pixel bytes of one slice."""
    return int(options.rows * options.rows * BYTES_PER_PIXEL)


def series_bytes(options: argparse.Namespace) -> int:
    """Return the pixel bytes of one request's series."""
    return int(options.series * options.slices * slice_bytes(options))


def _row(what: str, needed: float, there: float, unit: str) -> Row:
    return {
        "what": what,
        "needed": float(needed),
        "one machine has": float(there),
        "unit": unit,
        "used_percent": 100.0 * needed / there,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--figures", type=Path, required=True)
    parser.add_argument("--hospitals", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--requests-per-day", type=float, default=20.0, help="of one hospital")
    parser.add_argument("--service-s", type=float, default=60.0, help="a job at a worker")
    parser.add_argument("--series", type=int, default=4)
    parser.add_argument("--slices", type=int, default=155)
    parser.add_argument("--rows", type=int, default=240, help="and as many columns")
    parser.add_argument("--busy", type=float, default=0.6, help="of a core, by one process")
    parser.add_argument("--cores", type=float, default=16, help="one process of the site on each")
    parser.add_argument("--connections", type=float, default=100, help="PostgreSQL's own default")
    parser.add_argument("--gbit", type=float, default=1.0)
    parser.add_argument("--sockets", type=float, default=65_000)
    parser.add_argument("--terabytes", type=float, default=20.0)
    options = parser.parse_args(arguments)
    calls = json.loads(options.figures.read_text(encoding="utf-8"))["calls"]
    rates = [{"call": name, "per_s": rate} for name, rate in call_rates(options).items()]
    title = f"{options.hospitals} hospitals, {options.workers} workers, the fullest hour"
    print(table(f"{title}: calls", rates))
    print(table("What is used up first", needs(options, calls)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

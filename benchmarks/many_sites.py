"""Several site processes on one PostgreSQL, many workers, and nothing lost or doubled.

    python -m benchmarks.many_sites [--sites 4] [--workers 64] [--jobs 400] [--storage disk|bucket]

Each worker speaks to one of the processes by the real protocol: claim with a wait, heartbeat,
download, upload, complete. Pages post at all of them in turn. With `--storage bucket` artifacts and
images lie in a bucket of moto's S3 server. Ends with exit code 1 if a job was lost or had two
results.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.queue_crowd import Job, post, side_by_side, work_until
from benchmarks.queue_figures import Row, quantiles_ms, table
from benchmarks.queue_http import latency_row, post_to_claim
from benchmarks.queue_places import Place, Server, Told, open_place, serving
from benchmarks.queue_worker import Caller
from tests.support.object_store import ObjectStore

WAIT_S = 5
LONGEST_RUN_S = 150.0


@contextmanager
def bucket() -> Iterator[dict[str, str]]:
    """Start an S3 server; give what a site needs in order to use it."""
    with tempfile.TemporaryDirectory(prefix="bench-s3-") as folder:
        store = ObjectStore(Path(folder))
        try:
            address = store.make_bucket("bench")
            yield {**store.environment, "SEGMENTATION_STORAGE": address}
        finally:
            store.stop()


def run_load(
    place: Place, told: Told, servers: Sequence[Server], *, workers: int, jobs: int
) -> Row:
    """Post the jobs while the workers work; count what became of each."""
    database = place.database_cpu_s()
    sites = [one.cpu_s() for one in servers]
    began = time.time()
    done_by_all = multiprocessing.get_context("fork").Value("i", 0)

    def is_over() -> bool:
        return done_by_all.value >= jobs or time.time() - began > LONGEST_RUN_S

    calls: list[tuple[Any, ...]] = [
        (number, list(servers), told, is_over, done_by_all) for number in range(workers)
    ]
    calls += [(-1 - site, list(servers), told, jobs, None) for site in range(len(servers))]
    results = [one for share in side_by_side(_work_or_post, calls) for one in share]
    done = [one for one in results if isinstance(one, Job)]
    posted = dict(one for one in results if not isinstance(one, Job))
    wall_s = max(job.claimed_at + job.deliver_s for job in done) - began if done else 0.0
    accepted = Counter(job.request_id for job in done if job.outcome == "accepted")
    return {
        "sites": len(servers),
        "workers": workers,
        "posted": len(posted),
        "accepted": len(accepted),
        "lost": len(posted.keys() - accepted.keys()),
        "doubled": sum(count > 1 for count in accepted.values()),
        "jobs_per_s": len(done) / wall_s if wall_s else 0.0,
        **quantiles_ms([job.claimed_at - posted[job.request_id] for job in done]),
        "deliver_ms": quantiles_ms([job.deliver_s for job in done])["p50_ms"],
        "site_cpu_ms_per_job": _per_job(
            sum(one.cpu_s() for one in servers) - sum(sites), len(accepted)
        ),
        "db_cpu_ms_per_job": _per_job(place.database_cpu_s() - database, len(accepted)),
    }


def _per_job(seconds: float, jobs: int) -> float:
    return 1000 * seconds / max(1, jobs)


def _work_or_post(
    number: int, servers: list[Server], told: Told, what: Any, done_by_all: Any
) -> list[Any]:
    if number < 0:
        return _post_share(-1 - number, servers, told, what)

    def count() -> None:
        with done_by_all.get_lock():
            done_by_all.value += 1

    return work_until(number, servers, told, what, True, WAIT_S, count)


def _post_share(site: int, servers: list[Server], told: Told, jobs: int) -> list[tuple[str, float]]:
    caller = Caller(servers[site].port, told.user)
    posted = []
    for number in range(site, jobs, len(servers)):
        began = time.time()
        posted.append((post(caller, told.series[number % len(told.series)]), began))
    caller.close()
    return posted


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--posts", type=int, default=40, help="of the wake-up across processes")
    parser.add_argument("--storage", choices=("disk", "bucket"), default="disk")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    store: Any = bucket() if options.storage == "bucket" else nullcontext({})
    with store as environment, open_place("postgresql", **environment) as place:
        told = place.set_up(workers=options.workers)
        with serving(place, processes=options.sites) as servers:
            across = post_to_claim(
                told,
                servers[0],
                servers[1:] or servers,
                posts=options.posts,
                workers=min(4, options.workers),
            )
            load = run_load(place, told, servers, workers=options.workers, jobs=options.jobs)
    load = {"storage": options.storage, **load}
    wake = latency_row("POST at site 1, waiters at the others", across)
    print(table("Wake-up across processes", [wake]))
    print(table("Load: p50 to p99 are from POST to claim", [load]))
    if options.json:
        options.json.write_text(json.dumps({"across": wake, "load": load}, indent=1))
    is_whole = load["lost"] == load["doubled"] == 0 and load["posted"] == options.jobs
    if not is_whole:
        print("LOST OR DOUBLED", file=sys.stderr)
    return 0 if is_whole else 1


if __name__ == "__main__":
    raise SystemExit(main())

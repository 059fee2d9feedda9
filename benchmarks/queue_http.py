"""What the queue costs through HTTP: jobs per second, CPU of each call, POST to claim, waiters."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from benchmarks.queue_crowd import Job, make_worker, post, side_by_side, work_until
from benchmarks.queue_figures import Row, quantiles_ms
from benchmarks.queue_places import Place, Server, Told
from benchmarks.queue_worker import API, Caller

# A claim waits at most so long (CONTRACT 2.2); then the worker asks again.
LONGEST_WAIT_S = 25
OURS = "benchmark"
# More than one process takes in a second.
JOBS_PER_SECOND = 150


def fill(place: Place, told: Told, count: int) -> None:
    """Put requests into the queue."""
    place.run("benchmarks.queue_rows", "--pending", str(count), "--series", *told.series)


def throughput(
    place: Place, told: Told, servers: Sequence[Server], *, workers: int, seconds: float
) -> Row:
    """Let workers claim, upload a mask and complete, as fast as they can."""
    fill(place, told, int(JOBS_PER_SECOND * seconds))
    used, database = sum(one.cpu_s() for one in servers), place.database_cpu_s()
    began = time.time()
    end = began + seconds

    def is_over() -> bool:
        return time.time() >= end

    calls = [(number, servers, told, is_over, False, 0) for number in range(workers)]
    jobs: list[Job] = [job for share in side_by_side(work_until, calls) for job in share]
    wall_s = time.time() - began
    count = max(1, len(jobs))
    return {
        "database": place.kind,
        "workers": workers,
        "jobs_per_s": len(jobs) / wall_s,
        **quantiles_ms([job.claim_s for job in jobs]),
        "site_cpu_ms_per_job": 1000 * (sum(one.cpu_s() for one in servers) - used) / count,
        "db_cpu_ms_per_job": 1000 * (place.database_cpu_s() - database) / count,
    }


def call_costs(place: Place, told: Told, server: Server, *, count: int) -> list[Row]:
    """Measure the site's CPU of each kind of call, one after the other."""
    worker = make_worker(0, [server], told)
    caller = Caller(server.port, told.user)
    fill(place, told, 0)
    rows: list[Row] = []

    def measure(name: str, calls: Sequence[Callable[[], object]], *, of: int = 1) -> list[Any]:
        site, database, began = server.cpu_s(), place.database_cpu_s(), time.perf_counter()
        results = [call() for call in calls]
        share = 1000 / (len(calls) * of)
        rows.append(
            {
                "database": place.kind,
                "call": name,
                "site_cpu_ms": (server.cpu_s() - site) * share,
                "db_cpu_ms": (place.database_cpu_s() - database) * share,
                "wall_ms": (time.perf_counter() - began) * share,
            }
        )
        return results

    measure("empty poll", [worker.claim] * count)
    measure("POST", [lambda: post(caller, told.series[0])] * count)
    jobs = [job for job in measure("claim", [worker.claim] * count) if job]
    measure("heartbeat", [lambda job=job: worker.beat(job) for job in jobs])
    measure("upload, complete", [lambda job=job: worker.deliver(job) for job in jobs])
    post(caller, told.large)
    large = worker.claim()
    if large is not None:
        slices = len(large["manifest"][0]["instances"])
        fetches = [lambda: worker.fetch(large)] * -(-count // slices)
        measure("download of a slice", fetches, of=slices)
        worker.give_up(large)
    worker.caller.close()
    caller.close()
    return rows


def post_to_claim(
    told: Told,
    posted_at: Server,
    waiting_at: Sequence[Server],
    *,
    posts: int,
    workers: int,
) -> list[float]:
    """Return the seconds from the start of a POST until a waiting worker holds the request."""
    end = time.time() + 120
    calls: list[tuple[Any, ...]] = [
        (number, list(waiting_at), told, end, posts // workers) for number in range(workers)
    ]
    calls.append((-1, [posted_at], told, end, posts // workers * workers))
    told_times = dict(one for share in side_by_side(_wait_or_post, calls) for one in share)
    claimed = {key: moment for key, moment in told_times.items() if not key.startswith("post ")}
    return [claimed[key] - told_times[f"post {key}"] for key in claimed]


def _wait_or_post(
    number: int, servers: list[Server], told: Told, end: float, count: int
) -> list[tuple[str, float]]:
    return (
        _post_now_and_then(servers[0], told, count)
        if number < 0
        else _take(number, servers, told, end, count)
    )


def _take(
    number: int, servers: list[Server], told: Told, end: float, count: int
) -> list[tuple[str, float]]:
    """Claim so many jobs; each ends at once, so that the worker waits for the next one."""
    worker = make_worker(number, servers, told)
    taken: list[tuple[str, float]] = []
    while len(taken) < count and time.time() < end:
        job = worker.claim(wait_s=LONGEST_WAIT_S)
        if job is not None:
            taken.append((job["request_id"], time.time()))
            worker.give_up(job)
    return taken


def _post_now_and_then(server: Server, told: Told, count: int) -> list[tuple[str, float]]:
    caller = Caller(server.port, told.user)
    time.sleep(1.0)  # until every worker waits
    posted: list[tuple[str, float]] = []
    for _ in range(count):
        began = time.time()
        posted.append((f"post {post(caller, told.series[0])}", began))
        time.sleep(random.uniform(0.1, 0.3))
    return posted


def latency_row(place: str, seconds: Sequence[float]) -> Row:
    """Return a row of the latencies from POST to claim."""
    return {"database": place, "posts": len(seconds), **quantiles_ms(seconds)}


# --- waiters


def waiters(place: Place, told: Told, server: Server, *, count: int, seconds: float) -> Row:
    """Let many workers wait at one process; measure what that alone costs.

    Their first polls come at random over the longest wait, as those of workers that were started by
    different people, and measuring begins when each has polled once.
    """
    return asyncio.run(_wait_together(place, told, server, count, seconds))


async def _wait_together(
    place: Place, told: Told, server: Server, count: int, seconds: float
) -> Row:
    polls: list[float] = []
    tasks = [
        asyncio.create_task(_poll_for_ever(server.port, told, number, polls))
        for number in range(count)
    ]
    await asyncio.sleep(2 * LONGEST_WAIT_S)
    polls.clear()
    connections: list[int] = []
    used, database, began = server.cpu_s(), place.database_cpu_s(), time.monotonic()
    while time.monotonic() - began < seconds:
        connections.append(await asyncio.to_thread(_connections, place, server))
        await asyncio.sleep(0.5)
    wall_s = time.monotonic() - began
    row = {
        "database": place.kind,
        "waiters": count,
        "polls_per_s": len(polls) / wall_s,
        "site_cpu_percent": 100 * (server.cpu_s() - used) / wall_s,
        "db_cpu_percent": 100 * (place.database_cpu_s() - database) / wall_s,
        "connections_median": statistics.median(connections),
        "connections_most": max(connections),
    }
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return row


async def _poll_for_ever(port: int, told: Told, number: int, polls: list[float]) -> None:
    await asyncio.sleep(random.uniform(0, LONGEST_WAIT_S))
    secret = told.workers[number % len(told.workers)]
    worker = {"name": f"pc-{number}", "version": "1.0", "device": "cpu", "models": ["demo"]}
    body = json.dumps({"worker": worker}).encode()
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                writer.write(_claim(secret, body))
                await writer.drain()
                status = await reader.readline()
                if not status:
                    break  # the server closed a connection that was idle while the worker rested
                if b"204" not in status:
                    raise RuntimeError(status.decode())
                polls.append(time.monotonic())
                await asyncio.sleep(await _read_retry_after(reader))
        writer.close()


async def _read_retry_after(reader: asyncio.StreamReader) -> float:
    """Read the headers of an answer; return how long it asks the worker to rest."""
    rest_s = 0.0
    while (line := await reader.readline()) not in {b"\r\n", b""}:
        name, _, value = line.decode("latin-1").partition(":")
        if name.lower() == "retry-after":
            rest_s = float(value)
    return rest_s


def _claim(secret: str, body: bytes) -> bytes:
    head = (
        f"POST {API}/pending-requests/claim/ HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {secret}\r\nIdempotency-Key: {uuid4()}\r\n"
        f"Prefer: wait={LONGEST_WAIT_S}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _connections(place: Place, server: Server) -> int:
    """Count the site's connections to its database."""
    if place.kind == "sqlite":
        folder = Path(f"/proc/{server.process.pid}/fd")
        return sum(one.endswith("db.sqlite3") for one in map(_target, folder.iterdir()))
    address = place.environment["DATABASE_URL"]
    with psycopg.connect(address, autocommit=True, application_name=OURS) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend' AND application_name <> %s",
            [OURS],
        ).fetchone()
    return int(found[0]) if found else 0


def _target(link: Path) -> str:
    with suppress(OSError):
        return str(link.readlink())
    return ""

"""How soon the site answers a page's calls while a network infers on the same cores.

    python -m benchmarks.page_calls [--seconds 20] [--database postgresql] [--json FILE]

A server, a page that makes its calls again and again, and beside them nothing, or convolutions on
every core: once with the priority of the site, once behind it as the cloud lane's worker runs
(`manage.py run_cloud_worker`), once more with a worker that claims, uploads and completes. Prints
milliseconds and, for each kind of call, which were slower than the 100 ms that are the goal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

from benchmarks.queue_crowd import make_worker, post
from benchmarks.queue_figures import Row, quantiles_ms, table
from benchmarks.queue_places import DATABASES, Place, Server, Told, open_place, serving
from benchmarks.queue_worker import API, Caller

GOAL_MS = 100.0
PAUSE_S = 0.05  # between two calls of the page
NICER_BY = 10  # as run_cloud_worker starts its worker
INFERENCE = """
import os, sys, torch
os.nice(int(sys.argv[1]))
torch.set_num_threads(os.cpu_count() or 1)
network = torch.nn.Sequential(*[torch.nn.Conv3d(16, 16, 3, padding=1) for _ in range(4)])
image = torch.randn(1, 16, 64, 64, 64)
print("ready", flush=True)
with torch.inference_mode():
    while True:
        network(image)
"""
SIGN_IN = """
import django
django.setup()
from django.contrib.auth import get_user_model
from django.test import Client
client = Client()
client.force_login(get_user_model().objects.get(username="doctor"))
print(client.cookies["sessionid"].value)
"""


def sign_in(place: Place) -> str:
    """Return the cookie of a session of the site's user."""
    done = subprocess.run(
        [sys.executable, "-c", SIGN_IN],
        env=dict(place.environment),
        stdout=subprocess.PIPE,
        check=True,
    )
    return done.stdout.decode().strip()


def finished_request(told: Told, server: Server) -> str:
    """File a request and bring its mask; return its id."""
    caller, worker = Caller(server.port, told.user), make_worker(0, [server], told)
    request_id = post(caller, told.series[0])
    job = worker.claim()
    if job is None:
        raise RuntimeError("The worker was given nothing.")
    worker.deliver(job)
    return request_id


def addresses(told: Told, request_id: str) -> dict[str, str]:
    """Return what a page calls, by what it is for."""
    viewer = f"/viewer/series/{told.large}"
    return {
        "studies page": "/",
        "queue page": "/queue/",
        "series": f"{API}/series/",
        "status": f"{API}/status/{request_id}/",
        "requests": f"{API}/requests/?limit=50",
        "health": f"{API}/health/",
        "slices of a series": f"{viewer}/",
        "one slice": f"{viewer}/slices/1.png",
        "mask": f"{API}/requests/{request_id}/mask.nii.gz",
        "report": f"{API}/requests/{request_id}/report.json",
    }


def call_for(server: Server, cookie: str, paths: dict[str, str], seconds: float) -> Row:
    """Make the page's calls in turn for a while; return quantiles of all and the slow kinds."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"Cookie": f"sessionid={cookie}"}
    taken: dict[str, list[float]] = {name: [] for name in paths}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, path in paths.items():
            began = time.perf_counter()
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            answer.read()
            taken[name].append(time.perf_counter() - began)
            if answer.status not in {200, 404}:  # a light worker brings no volume and no report
                raise RuntimeError(f"{answer.status} for {name}")
            time.sleep(PAUSE_S)
    connection.close()
    every = [one for values in taken.values() for one in values]
    p95 = {name: quantiles_ms(values)["p95_ms"] for name, values in taken.items()}
    slow = sorted(name for name, value in p95.items() if value > GOAL_MS)
    return {
        "calls": len(every),
        **quantiles_ms(every),
        "slowest kind": max(p95, key=lambda name: p95[name]),
        "its p95_ms": max(p95.values()),
        "kinds over 100 ms": ", ".join(slow) or "none",
    }


@contextmanager
def inferring(niceness: int) -> Iterator[None]:
    """Keep every core busy with convolutions."""
    command = [sys.executable, "-c", INFERENCE, str(niceness)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ)) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            yield
        finally:
            child.kill()


@contextmanager
def delivering(told: Told, server: Server) -> Iterator[None]:
    """Let requests be filed and masks arrive, one after the other."""
    is_over = threading.Event()

    def work() -> None:
        caller, worker = Caller(server.port, told.user), make_worker(1, [server], told)
        while not is_over.is_set():
            post(caller, told.series[1])
            job = worker.claim()
            if job is not None:
                worker.deliver(job)
            is_over.wait(0.5)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def measure(kind: str, seconds: float, tell: Callable[[str], None]) -> list[Row]:
    """Measure each situation on one kind of database."""
    rows: list[Row] = []
    with open_place(kind) as place, ExitStack() as stack:
        told = place.set_up(workers=2)
        (server,) = stack.enter_context(serving(place))
        cookie = sign_in(place)
        paths = addresses(told, finished_request(told, server))
        call_for(server, cookie, paths, 0.1)  # what the first call of each kind loads

        def note(beside: str) -> None:
            tell(f"{kind}: {beside}")
            rows.append(
                {"database": kind, "beside": beside, **call_for(server, cookie, paths, seconds)}
            )

        note("nothing")
        with inferring(0):
            note("inference, same priority")
        with inferring(NICER_BY):
            note("inference, behind the site")
            with delivering(told, server):
                note("the same, and masks arrive")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="for each situation")
    parser.add_argument("--database", choices=DATABASES, help="only this kind")
    parser.add_argument("--json", type=Path, help="write everything to this file, too")
    options = parser.parse_args(arguments)
    databases = [options.database] if options.database else list(DATABASES)
    rows = [
        row
        for kind in databases
        for row in measure(kind, options.seconds, lambda text: print(text, file=sys.stderr))
    ]
    print(table("A page's calls", rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

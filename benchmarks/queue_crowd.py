"""Many light workers in few processes: threads that mostly wait for the site's answers."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from benchmarks.queue_places import Server, Told
from benchmarks.queue_worker import Caller, LightWorker

PROCESSES = 4
_fork = multiprocessing.get_context("fork")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker saw of one job; moments are those of this machine's clock."""

    request_id: str
    worker: int
    claimed_at: float
    claim_s: float
    deliver_s: float
    outcome: str


def side_by_side(target: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Run each call in a thread of its own, spread over few processes; return their results."""
    shares = [calls[start::PROCESSES] for start in range(PROCESSES)]
    shares = [share for share in shares if share]
    pipes = [_fork.Pipe(duplex=False) for _ in shares]
    children = [
        _fork.Process(target=_run_share, args=(target, share, sender))
        for share, (_, sender) in zip(shares, pipes, strict=True)
    ]
    for child in children:
        child.start()
    for _, sender in pipes:
        sender.close()
    told = [receiver.recv() for receiver, _ in pipes]
    for child in children:
        child.join()
    for one in told:
        if isinstance(one, Exception):
            raise one
    return [result for share in told for result in share]


def _run_share(target: Callable[..., Any], share: Sequence[tuple[Any, ...]], sender: Any) -> None:
    with ThreadPoolExecutor(len(share)) as threads:
        try:
            sender.send(list(threads.map(lambda arguments: target(*arguments), share)))
        except Exception as error:  # it belongs to who asked, in the other process
            sender.send(error)


def make_worker(number: int, servers: Sequence[Server], told: Told) -> LightWorker:
    """Return the worker of this number, which speaks to one of the servers."""
    port = servers[number % len(servers)].port
    return LightWorker(port, told.workers[number], f"pc-{number}", told.masks)


def work_until(
    number: int,
    servers: Sequence[Server],
    told: Told,
    is_over: Callable[[], bool],
    is_whole: bool,
    wait_s: int,
    on_done: Callable[[], None] = lambda: None,
) -> list[Job]:
    """Claim, deliver and complete; `is_whole` adds heartbeat and download."""
    worker = make_worker(number, servers, told)
    jobs: list[Job] = []
    while not is_over():
        began = time.time()
        job = worker.claim(wait_s=wait_s)
        claimed = time.time()
        if job is None:
            if wait_s == 0:
                break
            continue  # the wait is over, and another may begin
        if is_whole:
            worker.beat(job)
            worker.fetch(job)
        outcome = worker.deliver(job)
        jobs.append(
            Job(
                request_id=job["request_id"],
                worker=number,
                claimed_at=claimed,
                claim_s=claimed - began,
                deliver_s=time.time() - claimed,
                outcome=outcome,
            )
        )
        on_done()
    worker.caller.close()
    return jobs


def post(caller: Caller, series_id: str) -> str:
    """File a request as a page does; return its id. A page told to slow down does so."""
    while True:
        answer = caller.call("POST", f"/series/{series_id}/request-local/", {"force": True})
        if answer.status != 429:
            break
        time.sleep(1.0)
    if answer.status != 202:
        raise RuntimeError(f"{answer.status}: {answer.body[:300]!r}")
    return str(answer.json()["request_id"])

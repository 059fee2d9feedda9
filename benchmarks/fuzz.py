"""A fuzzer that reads the OpenAPI document, on a running site, with credentials and real ids.

    python -m benchmarks.fuzz [--calls 20000] [--seed 1] [--json]

It starts a site of its own (a real server process) in a temporary folder, and makes calls from the
document: as a user, as a worker, as the wrong one of the two, and as nobody. Between them it moves
real requests on (files, claims, delivers, releases, cancels), so that the made-up calls meet every
state. Each answer must be one that the document names, with the body and headers that it describes,
never 500, and within a time limit. It ends with 1 if any was not.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import hypothesis
import schemathesis
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.http_worker import HttpWorker
from tests.support.live_site import LiveSite, start_live, stop_live

DEFAULT_CALLS = 20_000
CALLS_IN_A_ROW = 20  # of one operation, before the world moves on
# No call waits (see `_headers`): this long, even on a busy machine, is a hang.
CALL_TIMEOUT_S = 30.0
MOST_IDS = 50
MOST_FAILURES_SHOWN = 20
# Its answer to a request that is not finished is a stream without an end.
STREAM = "follow_request"


def is_no_mistake_of_ours(_context: Any, response: Any, _case: Any) -> None:
    """Refuse 500 only: 502, 503 and 504 are answers of the contract."""
    if response.status_code == 500:
        raise AssertionError("the site answered 500")


CHECKS = (
    is_no_mistake_of_ours,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An answer that should not have been."""

    operation: str
    text: str

    @property
    def kind(self) -> str:
        """What makes two failures the same."""
        return f"{self.operation}: {self.text.splitlines()[0] if self.text else ''}"


@dataclass(kw_only=True)
class Report:
    """What was called and what came of it."""

    calls: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    slowest: str = ""
    statuses: Counter[int] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Give everything."""
        kinds = Counter(one.kind for one in self.failures)
        return {
            "calls": self.calls,
            "operations": len(self.operations),
            "seconds": round(self.seconds, 1),
            "slowest_seconds": round(self.slowest_s, 2),
            "slowest": self.slowest,
            "statuses": dict(sorted(self.statuses.items())),
            "failures": dict(kinds),
            "examples": [one.text for one in self.failures[:MOST_FAILURES_SHOWN]],
        }


class World:
    """Real requests in every state, kept moving by calls that are right."""

    def __init__(self, live: LiveSite, chance: random.Random) -> None:
        self._chance = chance
        self._user = live.client("user")
        self._worker_client = live.client("lab")
        self._worker = HttpWorker(self._worker_client)
        self.series_ids = list(live.series.values())
        self.request_ids: list[str] = []
        self.finished_ids: list[str] = []
        self.instance_ids: list[str] = []
        self.seg_instance_ids: list[str] = []
        self.jobs: list[dict[str, Any]] = []

    def move(self) -> None:
        """Do one thing that a user or a worker would do."""
        moves = (self._file, self._claim, self._beat, self._deliver, self._fail, self._cancel)
        self._chance.choice(moves)()
        for ids in (self.request_ids, self.finished_ids, self.instance_ids, self.jobs):
            del ids[:-MOST_IDS]

    def _file(self) -> None:
        answer = self._user.post(
            f"/series/{self._chance.choice(self.series_ids)}/request-local/", json={"force": True}
        )
        if answer.status_code == 202:
            self.request_ids.append(answer.json()["request_id"])

    def _claim(self) -> None:
        answer = self._worker.claim()
        if answer.status_code != 200:
            return
        job = answer.json()
        self.jobs.append(job)
        self.request_ids.append(job["request_id"])
        self.instance_ids.append(job["manifest"][0]["instances"][0]["id"])

    def _beat(self) -> None:
        for job in self.jobs[-1:]:
            self._worker_client.post(
                f"/requests/{job['request_id']}/heartbeat/",
                json={"stage": "inferring", "progress": 0.5},
                headers={"If-Match": f'"{job["lease"]["id"]}"'},
            )

    def _deliver(self) -> None:
        if not self.jobs:
            return
        job = self.jobs.pop(self._chance.randrange(len(self.jobs)))
        try:
            answer = self._worker.serve(job)
        except httpx.HTTPStatusError:  # it was lost meanwhile, which is the point
            return
        if answer.status_code == 200:
            self._note_end(job["request_id"])

    def _fail(self) -> None:
        if self.jobs:
            job = self.jobs.pop()
            self._worker_client.post(
                f"/complete-request/{job['request_id']}/",
                json={"success": False, "failure": {"code": "fuzz", "retryable": False}},
                headers={"If-Match": f'"{job["lease"]["id"]}"'},
            )
            self._note_end(job["request_id"])

    def _cancel(self) -> None:
        if self.request_ids:
            request_id = self._chance.choice(self.request_ids)
            if self._user.post(f"/requests/{request_id}/cancel/").status_code == 200:
                self._note_end(request_id)

    def _note_end(self, request_id: str) -> None:
        status = self._user.get(f"/status/{request_id}/").json()
        if status.get("status") in {"completed", "failed", "cancelled"}:
            self.finished_ids.append(request_id)
        if status.get("seg_instance_id"):
            self.seg_instance_ids = [*self.seg_instance_ids, status["seg_instance_id"]][-MOST_IDS:]

    def pick(self, name: str, operation_id: str) -> str | None:
        """Give a real value of a path's parameter, if there is one."""
        pools = {
            "request_id": self.finished_ids if operation_id == STREAM else self.request_ids,
            "series_id": self.series_ids,
            "instance_id": self.instance_ids,
            "seg_instance_id": self.seg_instance_ids,
            "name": ["mask.dcm", "mask.nii.gz", "preview.png", "report.json"],
        }
        pool = pools.get(name)
        return self._chance.choice(pool) if pool else None

    def lease(self) -> str:
        """Give the lease of a claim, or one that nobody has."""
        return self._chance.choice(self.jobs)["lease"]["id"] if self.jobs else str(uuid4())


class Fuzzer:
    """Makes the calls."""

    def __init__(self, live: LiveSite, *, calls: int, seed: int) -> None:
        self._live = live
        self._wanted = calls
        self._seed = seed
        self._chance = random.Random(seed)
        self._world = World(live, self._chance)
        self.report = Report()

    def run(self, on_progress: Any) -> Report:
        """Call until so many calls were made."""
        began = time.monotonic()
        document = schemathesis.openapi.from_url(f"{self._live.url}/api/mri/openapi.json")
        operations = [one.ok() for one in document.get_all_operations()]
        for turn, operation in enumerate(self._in_turn(operations)):
            if self.report.calls >= self._wanted:
                break
            self._world.move()
            self._call_in_a_row(operation, self._seed * 1_000_003 + turn)
            on_progress(self.report.calls)
        self.report.seconds = time.monotonic() - began
        return self.report

    def _in_turn(self, operations: list[Any]) -> Iterator[Any]:
        while True:
            self._chance.shuffle(operations)
            yield from operations

    def _call_in_a_row(self, operation: Any, seed: int) -> None:
        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=min(CALLS_IN_A_ROW, self._wanted - self.report.calls),
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def call(case: Any) -> None:
            self._call(case)

        call()

    def _call(self, case: Any) -> None:
        operation_id = case.operation.definition.raw.get("operationId", "")
        self._use_real_ids(case, operation_id)
        began = time.monotonic()
        try:
            answer = case.call(headers=self._headers(case), timeout=CALL_TIMEOUT_S)
            self.report.statuses[answer.status_code] += 1
            case.validate_response(answer, checks=CHECKS)
        except hypothesis.errors.UnsatisfiedAssumption:
            raise
        except (Exception, FailureGroup) as error:  # the next call is made all the same
            self._note_failure(case, error)
        taken_s = time.monotonic() - began
        self.report.calls += 1
        self.report.operations[operation_id] += 1
        if taken_s > self.report.slowest_s:
            self.report.slowest_s, self.report.slowest = taken_s, operation_id

    def _note_failure(self, case: Any, error: BaseException) -> None:
        told = getattr(error, "exceptions", None) or [error]
        text = "\n".join(f"{type(one).__name__}: {one}" for one in told)
        self.report.failures.append(Failure(operation=case.operation.label, text=text[:4000]))

    def _use_real_ids(self, case: Any, operation_id: str) -> None:
        is_stream = operation_id == STREAM
        for name in case.path_parameters or {}:
            real = self._world.pick(name, operation_id)
            if real is not None and (is_stream or self._chance.random() < 0.7):
                case.path_parameters[name] = real

    def _headers(self, case: Any) -> dict[str, str]:
        headers = self._credentials(case)
        if self._chance.random() < 0.6:
            headers["If-Match"] = f'"{self._world.lease()}"'
            headers["Idempotency-Key"] = str(uuid4())
        # Else the fuzzer would spend its time waiting.
        headers["Prefer"] = self._chance.choice(["respond-async", "wait=0"])
        return headers

    def _credentials(self, case: Any) -> dict[str, str]:
        tags = "".join(case.operation.definition.raw.get("tags", []))
        right, other = ("lab", "user") if "worker" in tags else ("user", "lab")
        dice = self._chance.random()
        if dice < 0.85:
            return self._live.headers(right)
        if dice < 0.95:
            return self._live.headers(other)
        return {} if dice < 0.98 else {"Authorization": "Bearer wrong"}


def fuzz(calls: int, seed: int, folder: Path, on_progress: Any = lambda _: None) -> Report:
    """Start a site in a folder, make the calls, stop it."""
    live = start_live(folder, SEGMENTATION_WAIT_SECONDS="0.2")
    try:
        return Fuzzer(live, calls=calls, seed=seed).run(on_progress)
    finally:
        stop_live(live)


def _told(report: Report) -> str:
    lines = [
        f"{report.calls} calls of {len(report.operations)} operations in {report.seconds:.0f} s",
        "statuses: " + ", ".join(f"{key}: {n}" for key, n in sorted(report.statuses.items())),
        f"slowest: {report.slowest_s:.2f} s ({report.slowest})",
        f"failures: {len(report.failures)}",
    ]
    kinds = Counter(one.kind for one in report.failures)
    lines += [f"  {count} x {kind}" for kind, count in kinds.most_common(MOST_FAILURES_SHOWN)]
    return "\n".join(lines)


def _show_progress(calls: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{calls} calls", end="", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--calls", type=int, default=DEFAULT_CALLS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = fuzz(asked.calls, asked.seed, Path(folder), _show_progress)
    print(json.dumps(report.to_json(), indent=2) if asked.json else _told(report))
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())

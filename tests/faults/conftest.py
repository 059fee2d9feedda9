"""A site of real processes on each database, which a test may kill, freeze and mislead."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.http_worker import HttpWorker, lease_of
from tests.support.live_site import REPOSITORY, LiveSite, start_again, start_live, stop_live
from tests.support.postgres import Cluster

PATIENCE_S = 60


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, f"waited {PATIENCE_S} s in vain: {what}"
        time.sleep(0.05)


@dataclass
class FaultySite:
    """A live site and the handles on its faults."""

    live: LiveSite
    database: str
    cluster: Cluster | None
    clients: list[httpx.Client]

    # --- who talks to it
    def client(self, who: str = "user") -> httpx.Client:
        client = self.live.client(who)
        self.clients.append(client)
        return client

    def worker(self, name: str = "pc-1", who: str = "lab") -> HttpWorker:
        return HttpWorker(self.client(who), name=name)

    # --- what a user does and sees
    def file(self, series: str = "t1", **body: Any) -> str:
        answer = self.client().post(
            f"/series/{self.live.series[series]}/request-local/", json={"force": True, **body}
        )
        assert answer.status_code == 202, answer.text
        return str(answer.json()["request_id"])

    def status(self, request_id: str) -> dict[str, Any]:
        answer = self.client().get(f"/status/{request_id}/")
        assert answer.status_code == 200, answer.text
        told = dict(answer.json())
        told.pop("elapsed_seconds")  # it counts on while nothing changes
        return told

    def history(self, request_id: str) -> list[tuple[str, str]]:
        """Read a finished request's changes from its event stream: state and reason."""
        answer = self.client().get(
            f"/requests/{request_id}/events/", headers={"Last-Event-ID": "0"}
        )
        data = [line[5:] for line in answer.text.splitlines() if line.startswith("data:")]
        return [(one["status"], one["reason"]) for one in map(json.loads, data)]

    def attempts(self, request_id: str) -> int:
        return int(self.status(request_id)["attempts"])

    def job(self, worker: HttpWorker, series: str = "t1") -> dict[str, Any]:
        """File a request and let a worker take it."""
        request_id = self.file(series)
        answer = worker.claim()
        assert answer.status_code == 200, answer.text
        assert answer.json()["request_id"] == request_id
        return dict(answer.json())

    def cancel_everything(self) -> None:
        for state in ("pending", "processing"):
            listed = self.client().get("/requests/", params={"status": state, "limit": 200}).json()
            for item in listed["requests"]:
                self.client().post(f"/requests/{item['request_id']}/cancel/")

    # --- its faults
    def die(self, moment: str, state: str) -> None:
        """Let the process be killed `before` or `after` the commit of a change to `state`."""
        (self.live.data_dir / "fault").write_text(f"{moment} {state}")

    def is_dead(self) -> bool:
        return self.live.process.poll() is not None

    def revive(self) -> None:
        """Start the killed process again, without the fault."""
        wait_until(self.is_dead, "the server was to be killed")
        (self.live.data_dir / "fault").unlink(missing_ok=True)
        start_again(self.live)

    @property
    def clock_s(self) -> float:
        """By how much the server's clock is ahead of this one."""
        path = self.live.data_dir / "clock"
        return float(path.read_text()) if path.exists() else 0.0

    def step_clock(self, seconds: float) -> None:
        path = self.live.data_dir / "clock"
        draft = path.with_suffix(".part")
        draft.write_text(str(self.clock_s + seconds))
        draft.replace(path)

    def manage(self, *arguments: str) -> dict[str, Any]:
        """Run one of the site's own commands; give what it printed as JSON."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            env=self.live.environment,
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
        )
        return dict(json.loads(done.stdout)) if "--json" in arguments else {}

    def _reads(self) -> bool:
        return self.client().get("/requests/", params={"limit": 1}).status_code == 200

    @contextmanager
    def database_away(self) -> Iterator[None]:
        """Lock SQLite against every writer; stop PostgreSQL as a power cut would."""
        if self.cluster is not None:
            self.cluster.stop(is_immediate=True)
            try:
                yield
            finally:
                self.cluster.start()
            # The pool of connections notices by itself, some seconds later.
            wait_until(self._reads, "the site to find its database again")
            return
        holder = sqlite3.connect(self.live.data_dir / "db.sqlite3", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            holder.rollback()
            holder.close()


def beat(worker: HttpWorker, job: dict[str, Any], **body: Any) -> httpx.Response:
    return worker.client.post(
        f"/requests/{job['request_id']}/heartbeat/", json=body, headers=lease_of(job)
    )


def release(worker: HttpWorker, job: dict[str, Any]) -> httpx.Response:
    return worker.client.post(f"/requests/{job['request_id']}/release/", headers=lease_of(job))


@contextmanager
def run_site(
    folder: Path, database: str, request: pytest.FixtureRequest, **env: str
) -> Iterator[FaultySite]:
    cluster = None
    if database == "postgresql":
        cluster = request.getfixturevalue("postgres_cluster")
        env["DATABASE_URL"] = cluster.create_database()
    live = start_live(folder, DJANGO_SETTINGS_MODULE="tests.faults.site_settings", **env)
    site = FaultySite(live, database, cluster, [])
    try:
        yield site
    finally:
        stop_live(live)
        for client in site.clients:
            client.close()
        shutil.rmtree(folder, ignore_errors=True)


DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]


@pytest.fixture(scope="session", params=DATABASES)
def shared_site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FaultySite]:
    with run_site(tmp_path_factory.mktemp("faults"), request.param, request) as site:
        yield site


@pytest.fixture
def site(shared_site: FaultySite) -> FaultySite:
    """Give the running site with an empty queue."""
    if shared_site.is_dead():
        shared_site.revive()
    shared_site.cancel_everything()
    return shared_site

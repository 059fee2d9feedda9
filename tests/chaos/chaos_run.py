"""Kills, freezes and cuts at random while requests are filed; then counts what became of them."""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from tests.chaos.parties import LEASE_S, Site, Worker

_FILED_EVERY_S = 0.5
_FAULT_EVERY_S = 1.2


@dataclass(kw_only=True)
class Report:
    """What was filed and what became of it."""

    seed: int
    database: str
    workers: int
    seconds: float
    filed: int = 0
    finished: int = 0
    runs_made: int = 0
    attempts: int = 0
    accepted_per_job: dict[int, int] = field(default_factory=dict)
    lost: int = 0
    doubled: int = 0
    not_ended: int = 0
    wrong_files: int = 0
    refused: int = 0
    faults: dict[str, int] = field(default_factory=dict)

    def is_good(self) -> bool:
        """Tell whether every promise was kept."""
        broken = (self.lost, self.doubled, self.not_ended, self.wrong_files, self.refused)
        return self.filed > 0 and not any(broken)

    def lines(self) -> list[str]:
        """Give the report as a person reads it."""
        return [f"{name.replace('_', ' ')}: {value}" for name, value in asdict(self).items()]


class ChaosRun:
    """One run from a fresh folder.

    Parameters
    ----------
    folder : Path
        Empty; the site's and the workers' folders are made in it.
    seed : int
        Decides which faults come in which order.
    workers : int
        How many worker programs.
    database_url : str
        Of an empty PostgreSQL database; SQLite where it is empty.
    """

    def __init__(self, folder: Path, *, seed: int, workers: int, database_url: str = "") -> None:
        self._random = random.Random(seed)
        self._seed = seed
        self._database = "postgresql" if database_url else "sqlite"
        self.site = Site(folder / "site", database_url)
        self.workers = [Worker(folder / f"w{n}", f"w{n}", self.site) for n in range(workers)]
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._filed: list[str] = []
        self._seen: dict[str, str] = {}
        self._faults: Counter[str] = Counter()

    def run(self, seconds: float, *, settle_s: float) -> Report:
        """Make chaos for so long, let it settle, and count."""
        started = time.monotonic()
        try:
            self._make_chaos(seconds)
            self._calm_down()
            self._wait_until_ended(settle_s)
            return self._report(time.monotonic() - started)
        finally:
            for worker in self.workers:
                worker.end()
            self.site.kill()

    def _make_chaos(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        next_fault = next_filing = time.monotonic()
        while (now := time.monotonic()) < end:
            for worker in self.workers:
                worker.start()
            self._do_what_is_due(now)
            if now >= next_filing:
                self._file()
                next_filing = now + self._random.expovariate(1 / _FILED_EVERY_S)
            if now >= next_fault:
                self._do_harm()
                next_fault = now + self._random.expovariate(1 / _FAULT_EVERY_S)
            self._look()
            time.sleep(0.05)

    def _do_what_is_due(self, now: float) -> None:
        due = [item for item in self._later if item[0] <= now]
        self._later = [item for item in self._later if item[0] > now]
        for _, action in due:
            action()

    def _after(self, least_s: float, most_s: float, action: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + self._random.uniform(least_s, most_s), action))

    def _do_harm(self) -> None:
        worker = self._random.choice(self.workers)
        name, harm = self._random.choice(
            [
                ("kill_site", lambda: self._kill_site()),
                ("kill_worker", worker.kill),
                ("kill_child", worker.kill_child),
                ("kill_child", worker.kill_child),
                ("freeze_worker", lambda: self._freeze(worker, with_child=False)),
                ("freeze_both", lambda: self._freeze(worker, with_child=True)),
                ("cut", worker.proxy.cut),
                ("cut", worker.proxy.cut),
                ("refuse", lambda: self._refuse(worker)),
                ("delay", lambda: self._delay(worker)),
            ]
        )
        self._faults[name] += 1
        harm()

    def _kill_site(self) -> None:
        self.site.kill()
        self._after(0.0, 2.0, self.site.start)

    def _freeze(self, worker: Worker, *, with_child: bool) -> None:
        worker.freeze(with_child=with_child)
        self._after(LEASE_S * 0.8, LEASE_S * 1.6, worker.thaw)

    def _refuse(self, worker: Worker) -> None:
        worker.proxy.is_refusing = True
        worker.proxy.cut()
        self._after(1.0, LEASE_S * 1.5, lambda: setattr(worker.proxy, "is_refusing", False))

    def _delay(self, worker: Worker) -> None:
        worker.proxy.delay_s = self._random.uniform(0.02, 0.3)
        self._after(1.0, 4.0, lambda: setattr(worker.proxy, "delay_s", 0.0))

    def _client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.site.live.api,
            headers=self.site.live.headers("user"),
            timeout=5,
            trust_env=False,
        )

    def _file(self) -> None:
        series = self._random.choice(sorted(self.site.live.series.values()))
        body = {"sequence_series_ids": [series], "model": "fake", "force": True}
        try:
            with self._client() as client:
                answer = client.post(
                    f"/series/{series}/segment/", json=body, headers={"Prefer": "respond-async"}
                )
        except httpx.TransportError:
            return  # it was not promised
        if answer.status_code == 202:
            self._filed.append(answer.json()["request_id"])

    def _look(self) -> None:
        """Keep what the first look at a result shows: it must never change."""
        waiting = [one for one in self._filed if one not in self._seen]
        for request_id in waiting[:1] + self._random.sample(waiting, min(1, len(waiting))):
            shown = self._shown(request_id)
            if shown:
                self._seen.setdefault(request_id, shown)

    def _shown(self, request_id: str) -> str:
        try:
            with self._client() as client:
                mask = client.get(f"/requests/{request_id}/mask.dcm")
        except httpx.TransportError:
            return ""
        return hashlib.sha256(mask.content).hexdigest() if mask.status_code == 200 else ""

    def _calm_down(self) -> None:
        for _, action in self._later:
            action()
        self.site.start()
        self.site.wait_until_up()
        for worker in self.workers:
            worker.thaw()
            worker.proxy.is_refusing, worker.proxy.delay_s = False, 0.0

    def _wait_until_ended(self, limit_s: float) -> None:
        end = time.monotonic() + limit_s
        while time.monotonic() < end and self._open_requests():
            for worker in self.workers:
                worker.start()
            time.sleep(0.5)

    def _open_requests(self) -> int:
        with self._client() as client:
            queued = client.get("/requests/", params={"status": "pending", "limit": 1})
            running = client.get("/requests/", params={"status": "processing", "limit": 1})
        return sum(len(answer.json()["requests"]) for answer in (queued, running))

    def _report(self, seconds: float) -> Report:
        changed = sum(
            1 for request_id, shown in self._seen.items() if self._shown(request_id) != shown
        )
        for worker in self.workers:
            worker.end()
        rows = {str(row["id"]): row for row in self.site.audit()}
        lost = [one for one in self._filed if rows.get(one, {}).get("status") != "completed"]
        twice = [r for r in rows.values() if max(int(r["accepted"]), int(r["completions"])) > 1]
        ended = [r for r in rows.values() if r["status"] in ("completed", "failed", "cancelled")]
        return Report(
            seed=self._seed,
            database=self._database,
            workers=len(self.workers),
            seconds=round(seconds, 1),
            filed=len(self._filed),
            finished=sum(1 for row in rows.values() if row["status"] == "completed"),
            runs_made=sum(worker.runs() for worker in self.workers),
            attempts=sum(int(row["runs"]) for row in rows.values()),
            accepted_per_job=dict(Counter(int(row["accepted"]) for row in rows.values())),
            lost=len(lost),
            doubled=len(twice) + changed,
            not_ended=len(rows) - len(ended),
            wrong_files=sum(1 for row in rows.values() if row["wrong_files"]),
            refused=sum(worker.refused() for worker in self.workers),
            faults=dict(sorted(self._faults.items())),
        )

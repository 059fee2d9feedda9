"""Sites to measure: a database of a kind, real server processes on it, tokens, series and masks."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import psutil

from benchmarks.models import REPOSITORY
from tests.support.live_site import free_port
from tests.support.postgres import Cluster

START_LIMIT_S = 120
SECRET = "not a secret, a benchmark on loopback"
DATABASES = ("sqlite", "postgresql")


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the set-up made: secrets of tokens, series, and a mask for each series.

    `large` is a series of slices as large as those of a brain's MRI, without a mask.
    """

    user: str
    workers: tuple[str, ...]
    large: str
    series: tuple[str, ...]
    masks: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Place:
    """One site: its folder, its database, and what programs need in order to use it."""

    kind: str
    folder: Path
    environment: Mapping[str, str]
    cluster: Cluster | None = None

    def run(self, module: str, *arguments: str) -> str:
        """Run one of our modules on this site's database; return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env=dict(self.environment),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            check=True,
        )
        return done.stdout.decode()

    def set_up(self, *, workers: int) -> Told:
        """Make tables, tokens, four small series and their masks."""
        told = json.loads(self.run("benchmarks.queue_set_up", "--workers", str(workers)))
        return Told(
            user=told["user"],
            workers=tuple(told["workers"]),
            large=told["large"],
            series=tuple(told["masks"]),
            masks={key: base64.b64decode(mask) for key, mask in told["masks"].items()},
        )

    def database_cpu_s(self) -> float:
        """Return the CPU seconds of the database server so far; 0 for SQLite, which has none."""
        if self.cluster is None:
            return 0.0
        pid = int((self.cluster.folder / "data" / "postmaster.pid").read_text().split()[0])
        server = psutil.Process(pid)
        ended = server.cpu_times()
        return cpu_s(server) + ended.children_user + ended.children_system


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU seconds of a process and its living children so far."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


@contextmanager
def open_place(kind: str, **environment: str) -> Iterator[Place]:
    """Make an empty database of a kind in a temporary folder; both are gone afterwards."""
    inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        settings = {
            **inherited,
            "DJANGO_SETTINGS_MODULE": "benchmarks.queue_settings",
            "SEGMENTATION_DATA_DIR": str(Path(folder) / "site"),
            "SECRET_KEY": SECRET,
            "SEGMENTATION_PSEUDONYM_KEY": SECRET,
            "USE_LOCAL_INFERENCE": "true",
            "LOG_LEVEL": "WARNING",
            **environment,
        }
        if kind == "sqlite":
            yield Place(kind=kind, folder=Path(folder), environment=settings)
            return
        with Cluster() as cluster:  # with fsync, as in a hospital
            cluster.start()
            settings["DATABASE_URL"] = cluster.create_database()
            yield Place(kind=kind, folder=Path(folder), environment=settings, cluster=cluster)


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server process of a site."""

    port: int
    process: psutil.Process

    def cpu_s(self) -> float:
        """Return the CPU seconds that it has used so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def serving(place: Place, *, processes: int = 1) -> Iterator[list[Server]]:
    """Start server processes on free ports; stop them at the end."""
    ports = [free_port() for _ in range(processes)]
    started = [_start(place, port) for port in ports]
    try:
        for port, child in zip(ports, started, strict=True):
            _wait_until_up(port, child)
        yield [
            Server(port=port, process=psutil.Process(child.pid))
            for port, child in zip(ports, started, strict=True)
        ]
    finally:
        for child in started:
            child.terminate()
        for child in started:
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _start(place: Place, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "uvicorn", "reference_site.asgi:application"]
    with (place.folder / f"server-{port}.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--port", str(port), "--log-level", "warning"],
            env=dict(place.environment),
            cwd=REPOSITORY,
            stdout=log,
            stderr=log,
        )


def _wait_until_up(port: int, child: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end and child.poll() is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", "/api/mri/segmentation/health/")
            connection.getresponse().read()
        except OSError:
            time.sleep(0.1)
        else:
            return
        finally:
            connection.close()
    raise RuntimeError(f"the server on port {port} did not start")

"""The processes of a chaos run: a site and workers that are killed, frozen and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from tests.chaos.cutting_proxy import CuttingProxy
from tests.support.live_site import REPOSITORY, LiveSite, live_environment, start_live

LEASE_S = 5.0
# No request may fail because chaos used up its attempts: here only what is lost or doubled counts.
SITE = {
    "SEGMENTATION_LEASE_SECONDS": str(LEASE_S),
    "SEGMENTATION_DEADLINE_SECONDS": "60",
    "SEGMENTATION_MAX_ATTEMPTS": "1000",
    "SEGMENTATION_BACKOFF_SECONDS": "0.1",
    "SEGMENTATION_WAIT_SECONDS": "1",
}
WORKER = """
server: {{url: "http://127.0.0.1:{port}", wait_s: 3, poll_interval_s: 0.2, start_timeout_s: 20,
  retry_longest_s: 2, connect_timeout_s: 2, read_timeout_s: 5}}
worker: {{name: {name}, drain_s: 5, least_free_mb: 10}}
inference: {{device: cpu, processes: 2, stall_s: 20}}
default_model: fake
models: {{fake: {{path: fake}}}}
"""


class Site:
    """The site's process, on the same port and folder however often it starts."""

    def __init__(self, folder: Path, database_url: str = "") -> None:
        folder.mkdir()
        environment = SITE | ({"DATABASE_URL": database_url} if database_url else {})
        self.live: LiveSite = start_live(folder, **environment)
        self.port = int(self.live.url.rsplit(":", 1)[1])
        self._environment = live_environment(self.live.data_dir, **environment)
        self._log = folder / "server.log"

    def kill(self) -> None:
        """End it as a power cut would."""
        self.live.process.kill()
        self.live.process.wait()

    def start(self) -> None:
        """Start it again where it does not run, without waiting for it."""
        if self.live.process.poll() is None:
            return
        command = [sys.executable, "-m", "uvicorn", "reference_site.asgi:application"]
        with self._log.open("ab") as log:
            self.live.process = subprocess.Popen(
                [*command, "--port", str(self.port), "--log-level", "warning"],
                env=self._environment,
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
            )

    def wait_until_up(self, limit_s: float = 60) -> None:
        """Wait until it answers."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            with suppress(httpx.TransportError):
                httpx.get(f"{self.live.api}/health/", trust_env=False, timeout=10)
                return
            time.sleep(0.1)
        raise RuntimeError(f"the site does not come back: {self._log.read_text()[-2000:]}")

    def audit(self) -> list[dict[str, object]]:
        """Read what it has in its database and on its disk."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.chaos.audit"],
            env=self._environment,
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
            text=True,
        )
        return [json.loads(line) for line in done.stdout.splitlines()]


class Worker:
    """One worker program behind a proxy of its own."""

    def __init__(self, folder: Path, name: str, site: Site) -> None:
        folder.mkdir()
        self.name = name
        self.proxy = CuttingProxy(site.port)
        self._folder = folder
        self._config = folder / "config.yaml"
        self._config.write_text(WORKER.format(port=self.proxy.port, name=name))
        self._runs = folder / "runs.txt"
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "WORKER_TOKEN": site.live.secrets["lab"],
            "CHAOS_RUNS": str(self._runs),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: list[psutil.Process] = []
        self.starts = 0

    def is_running(self) -> bool:
        """Tell whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it where it does not run, as its start script would."""
        if self.is_running():
            return
        self.starts += 1
        program = Path(__file__).with_name("chaos_worker.py")
        with (self._folder / "worker.out").open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, str(program), "run", "--config", str(self._config)],
                env=self._environment,
                cwd=self._folder,
                stdout=out,
                stderr=out,
            )

    def kill(self) -> None:
        """End it as a power cut would; its child finds its parent gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.thaw()  # a child that stays frozen would never find that out

    def kill_child(self) -> None:
        """End its inference process, as the out-of-memory killer would."""
        for child in self._children():
            with suppress(psutil.NoSuchProcess):
                child.kill()

    def freeze(self, *, with_child: bool) -> None:
        """Stop it, and perhaps its child, with SIGSTOP."""
        if self._process is None or not self.is_running() or self._frozen:
            return
        own = [psutil.Process(self._process.pid)]
        self._frozen = own + (self._children() if with_child else [])
        for one in self._frozen:
            with suppress(psutil.NoSuchProcess):
                one.suspend()

    def thaw(self) -> None:
        """Let what was frozen go on."""
        for one in self._frozen:
            with suppress(psutil.NoSuchProcess):
                one.resume()
        self._frozen.clear()

    def end(self) -> None:
        """Ask it to end, and kill it if it does not."""
        self.thaw()
        if self._process is not None and self.is_running():
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        self.proxy.close()

    def runs(self) -> int:
        """Count how many inferences its children began."""
        return len(self._runs.read_text().splitlines()) if self._runs.exists() else 0

    def refused(self) -> int:
        """Count the results that the site would not take."""
        return len(list(self._folder.glob("var/worker/refused/*")))

    def _children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._process.pid).children() if self._process else []
        except psutil.NoSuchProcess:
            return []

"""How soon the worker answers and asks: `--help`, the first poll, the engine, the warm model.

    python -m benchmarks.start [--rounds 5] [--json FILE]

Beside each other in each round: a Python that does nothing, `python -m worker --help`, and
`python -m worker run` with the bundled model, from its start to its first poll, to its engine being
ready and to its model being loaded. A listener stands where the site would be and only notes when
it is asked: the start of the worker is what is measured. CPU seconds are those of the program with
its children, up to the moment that its row names.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.models import REPOSITORY
from benchmarks.stage_meter import Cost, describe, summarise

TIMEOUT_S = 180.0
LOOK_S = 0.01
NOTHING, HELP = "python that does nothing", "--help"
POLL, READY, WARM = "first poll", "engine ready", "model loaded"
EVENTS = {READY: "engine_ready", WARM: "model_loaded"}


class Listener:
    """Notes when it is first asked for work, and has none."""

    def __init__(self) -> None:
        self.asked_at: float | None = None
        listener = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                self._send(200, {"success": True, "requests": [], "count": 0})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                if listener.asked_at is None:
                    listener.asked_at = time.perf_counter()
                time.sleep(0.2)
                self._send(204, None)

            def _send(self, status: int, body: dict[str, Any] | None) -> None:
                data = b"" if body is None else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Retry-After", "1")
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def run_once(command: Sequence[str]) -> Cost:
    """Run a program to its end."""
    started = time.perf_counter()
    before = os.times()
    subprocess.run(list(command), cwd=REPOSITORY, check=True, capture_output=True)
    wall_s, after = time.perf_counter() - started, os.times()
    spent = after.children_user + after.children_system
    return Cost(
        wall_s=wall_s,
        cpu_s=spent - before.children_user - before.children_system,
        peak_mb=0.0,
    )


def start_worker(folder: Path, model: str) -> dict[str, Cost]:
    """Start a worker, and give what it took until each of its milestones."""
    with Listener() as listener:
        command = [sys.executable, "-m", "worker", "run", "--config", str(_config(folder, model))]
        environ = {**os.environ, "DJANGO_API_URL": listener.url, "WORKER_TOKEN": "not-checked"}
        started = time.perf_counter()
        with _running(command, environ) as process:
            return _milestones(process, listener, folder / "worker.log", started)


def _milestones(
    process: psutil.Process, listener: Listener, log: Path, started: float
) -> dict[str, Cost]:
    found: dict[str, Cost] = {}
    while len(found) < 1 + len(EVENTS):
        if time.perf_counter() - started > TIMEOUT_S or process.status() == psutil.STATUS_ZOMBIE:
            raise SystemExit(f"The worker did not start:\n{_last_lines(log)}")
        text = log.read_text(encoding="utf-8") if log.exists() else ""
        if POLL not in found and listener.asked_at is not None:
            found[POLL] = _cost(process, listener.asked_at - started)
        for name, event in EVENTS.items():
            if name not in found and event in text:
                found[name] = _cost(process, time.perf_counter() - started)
        time.sleep(LOOK_S)
    return found


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8").splitlines()[-5:]) if log.exists() else ""


def _cost(process: psutil.Process, wall_s: float) -> Cost:
    cpu_s = memory = 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            cpu_s += times.user + times.system
            memory += one.memory_info().rss / 1e6
    return Cost(wall_s=wall_s, cpu_s=cpu_s, peak_mb=memory)


@contextmanager
def _running(command: Sequence[str], environ: dict[str, str]) -> Iterator[psutil.Process]:
    process = subprocess.Popen(
        list(command),
        cwd=REPOSITORY,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=TIMEOUT_S)


def _config(folder: Path, model: str) -> Path:
    """Write the project's configuration, with a work folder and a log of its own."""
    config: dict[str, Any] = yaml.safe_load((REPOSITORY / "config.yaml").read_text("utf-8"))
    for entry in config["models"].values():
        entry["path"] = str(REPOSITORY / entry["path"])
    config["default_model"] = model
    config["worker"] = {**config["worker"], "work_dir": str(folder / "work"), "drain_s": 1}
    config["log"] = {"level": "debug", "file": str(folder / "worker.log")}
    # What a person agreed to run stands beside the configuration.
    shutil.copy(REPOSITORY / "models.lock.json", folder)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return path


def measure(rounds: int, model: str) -> dict[str, list[Cost]]:
    """Take each figure once a round, one after the other, so that all meet the same machine."""
    found: dict[str, list[Cost]] = {}
    for _ in range(rounds):
        found.setdefault(NOTHING, []).append(run_once([sys.executable, "-c", "pass"]))
        found.setdefault(HELP, []).append(run_once([sys.executable, "-m", "worker", "--help"]))
        with tempfile.TemporaryDirectory() as folder:
            for name, cost in start_worker(Path(folder), model).items():
                found.setdefault(name, []).append(cost)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="demo_brain_tumor")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args(arguments)
    rows = [
        summarise(name, costs) for name, costs in measure(options.rounds, options.model).items()
    ]
    print(describe("start of the worker", rows))
    if options.json is not None:
        text = json.dumps({row.name: row.__dict__ for row in rows}, indent=1)
        options.json.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

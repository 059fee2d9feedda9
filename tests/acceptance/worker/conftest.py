"""Starts the worker as a process, against a site that can misbehave."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.worker_daemon.fake_site import TOKEN, FakeSite, running

PROGRAM = Path(__file__).with_name("worker_with_fake_child.py")
REPOSITORY = Path(__file__).resolve().parents[3]

CONFIG = """
server: {{url: "{url}", wait_s: 2, poll_interval_s: 0.1, start_timeout_s: 1, retry_longest_s: 0.3}}
worker: {{name: lab-pc, drain_s: 10}}
inference: {{device: cpu}}
default_model: fake
models: {{fake: {{path: fake_model}}}}
"""


@pytest.fixture
def site() -> Iterator[FakeSite]:
    with running(FakeSite()) as fake:
        yield fake


class Workers:
    """Starts workers in one folder with a space and Hangul in its name."""

    def __init__(self, tmp_path: Path, url: str) -> None:
        self.folder = tmp_path / "작업 folder"
        self.folder.mkdir()
        self.config = self.folder / "config.yaml"
        self.config.write_text(CONFIG.format(url=url), encoding="utf-8")
        self.cases = self.folder / "cases.log"
        self.started: list[subprocess.Popen[str]] = []

    def environment(self, **changes: str) -> dict[str, str]:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "WORKER_TOKEN": TOKEN,
            "FAKE_CHILD_LOG": str(self.cases),
            **changes,
        }
        return {key: value for key, value in environment.items() if value}

    def start(self, command: str = "run", *more: str, **changes: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), command, "--config", str(self.config), *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=self.environment(**changes),
            cwd=self.folder,
        )
        self.started.append(process)
        return process

    def drain_within(self, seconds: float) -> None:
        text = self.config.read_text(encoding="utf-8")
        text = text.replace("drain_s: 10", f"drain_s: {seconds}")
        self.config.write_text(text, encoding="utf-8")

    def cases_run(self) -> list[str]:
        return self.cases.read_text().splitlines() if self.cases.exists() else []

    @property
    def jobs(self) -> Path:
        return self.folder / "var" / "worker" / "jobs"


@pytest.fixture
def workers(tmp_path: Path, site: FakeSite) -> Iterator[Workers]:
    workers = Workers(tmp_path, site.url)
    yield workers
    for process in workers.started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=20)


def wait_for(condition: Callable[[], object], timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def ended(process: subprocess.Popen[str], timeout_s: float = 30) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout_s)
    assert "Traceback" not in err
    return process.returncode, out, err


def is_polling(site: FakeSite) -> bool:
    return any("claim" in path for path in site.paths("POST"))

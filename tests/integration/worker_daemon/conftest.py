from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.integration.worker_daemon.fake_site import TOKEN, FakeSite, running
from worker.bootstrap import build
from worker.console import PlainView
from worker.settings import Settings, load_settings
from worker.signals import Stop

FAKE_CHILD = [sys.executable, str(Path(__file__).with_name("fake_child.py"))]

CONFIG = """
server: {{url: "{url}", wait_s: 1, poll_interval_s: 0.1, start_timeout_s: 1, retry_longest_s: 0.2}}
worker: {{name: lab-pc, work_dir: work, drain_s: 1}}
inference: {{device: cpu, stall_s: 2}}
default_model: fake
models: {{fake: {{path: fake_model}}}}
"""


@pytest.fixture
def site() -> Iterator[FakeSite]:
    with running(FakeSite()) as fake:
        yield fake


@pytest.fixture
def worker_settings(site: FakeSite, tmp_path: Path) -> Settings:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(url=site.url))
    return load_settings(config, {"WORKER_TOKEN": TOKEN})


class RunningWorker:
    """A whole worker in a thread, with the fault-injecting child."""

    def __init__(
        self,
        worker_settings: Settings,
        *,
        child: Sequence[str] = FAKE_CHILD,
        drain_s: float | None = None,
    ) -> None:
        self.stop = Stop(drain_s=worker_settings.worker.drain_s if drain_s is None else drain_s)
        self.program = build(
            worker_settings,
            stop=self.stop,
            view=PlainView(),
            command=child,
            find_usable=lambda _: ("fake",),
        )
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.program.daemon.run()
        except BaseException as error:
            self.error = error
        finally:
            self.program.close()

    def end(self, *, times: int = 1) -> None:
        for _ in range(times):
            self.stop.ask()
        self.join()

    def join(self) -> None:
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()


@pytest.fixture
def start_worker(worker_settings: Settings) -> Iterator[Callable[..., RunningWorker]]:
    started: list[RunningWorker] = []

    def start(*, drain_s: float | None = None) -> RunningWorker:
        started.append(RunningWorker(worker_settings, drain_s=drain_s))
        return started[-1]

    yield start
    for worker in started:
        worker.end(times=2)


def wait_for(condition: Callable[[], object], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)

"""The site as a real server process, with four tiny series, a user and a worker per lane."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tests.support.small_series import SLICES, mr_series

REPOSITORY = Path(__file__).resolve().parents[2]

SET_UP_LIVE = """
import django, json, sys
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.contrib.auth import get_user_model
from django_queue_app import tokens
from django_queue_app.pacs import get_pacs
from pathlib import Path
people = get_user_model().objects
user = people.create_user("doctor", password=sys.argv[2] or None)
people.create(username="chief", password=user.password, is_staff=True, is_superuser=True)
told = {"user": tokens.create(name="page", kind="user", user=user)[1]}
for lane in ("lab", "cloud"):
    told[lane] = tokens.create(name=lane, kind="worker", lane=lane)[1]
told["series"] = {}
for path in sorted(Path(sys.argv[1]).glob("*/*.dcm")):
    told["series"][path.parent.name] = get_pacs().store_instance(path.read_bytes()).series_id
print(json.dumps(told))
"""


@dataclass
class LiveSite:
    """A real server process."""

    url: str
    process: subprocess.Popen[bytes]
    secrets: dict[str, str]
    series: dict[str, str]
    data_dir: Path
    command: list[str] = field(repr=False)
    environment: dict[str, str] = field(repr=False)

    @property
    def log(self) -> Path:
        return self.data_dir.parent / "server.log"

    @property
    def api(self) -> str:
        return f"{self.url}/api/mri/segmentation"

    def client(self, who: str = "user", **kwargs: Any) -> httpx.Client:
        return httpx.Client(
            base_url=self.api, headers=self.headers(who), timeout=30, trust_env=False, **kwargs
        )

    def headers(self, who: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secrets[who]}"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def live_environment(data_dir: Path, **more: str) -> dict[str, str]:
    # Each site has a database of its own, so it can't be the one that the tests are told to use.
    inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    return {
        **inherited,
        "DJANGO_SETTINGS_MODULE": "reference_site.settings",
        "SEGMENTATION_DATA_DIR": str(data_dir),
        "USE_LOCAL_INFERENCE": "true",
        "SEGMENTATION_WAIT_SECONDS": "3",
        "PYTHONPATH": str(REPOSITORY),
        **more,
    }


PASSWORD = "a long enough one"  # for who starts a site whose users can sign in
UVICORN = (sys.executable, "-m", "uvicorn", "reference_site.asgi:application")


def start_live(
    folder: Path, *, command: Sequence[str] = (), password: str = "", **env: str
) -> LiveSite:
    """Start a server on a fresh data folder with four small series.

    Parameters
    ----------
    folder : Path
        What lies in `dicom/*/` of it is stored, too, each folder as a series of that name.
    command : sequence of str, optional
        The server to start instead of uvicorn; `{port}` stands for its port. Without it
        `--port` and uvicorn's log level come after.
    password : str, optional
        Of the users `doctor` and `chief`, who may do everything; without it none can sign in.
    """
    for name in ("t1", "flair", "t2", "t1c"):
        (folder / "dicom" / name).mkdir(parents=True)
        for index, data in enumerate(mr_series(description=name)):
            (folder / "dicom" / name / f"{index}.dcm").write_bytes(data)
    environment = live_environment(folder / "site", **env)
    told = json.loads(
        subprocess.run(
            [sys.executable, "-c", SET_UP_LIVE, str(folder / "dicom"), password],
            env=environment,
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
        ).stdout
    )
    port = free_port()
    started = [*(command or UVICORN)]
    if not any("{port}" in part for part in started):
        started += ["--port", "{port}", "--log-level", "warning"]
    started = [part.replace("{port}", str(port)) for part in started]
    live = LiveSite(
        url=f"http://127.0.0.1:{port}",
        process=_launch(started, environment, folder / "server.log"),
        secrets={key: told[key] for key in ("user", "lab", "cloud")},
        series=told["series"],
        data_dir=folder / "site",
        command=started,
        environment=environment,
    )
    _wait_until_up(live, live.log)
    return live


def start_again(live: LiveSite) -> None:
    """Start the server anew on the same data and port, after it ended."""
    live.process.wait(60)
    live.process = _launch(live.command, live.environment, live.log)
    _wait_until_up(live, live.log)


def _launch(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=file, stderr=file)


def _wait_until_up(live: LiveSite, log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and live.process.poll() is None:
        try:
            httpx.get(f"{live.api}/health/", trust_env=False)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    live.process.kill()
    raise AssertionError(f"the server did not start: {log.read_text()}")


def stop_live(live: LiveSite) -> None:
    live.process.terminate()
    try:
        live.process.wait(10)
    except subprocess.TimeoutExpired:
        live.process.kill()
        live.process.wait()


def new_key() -> str:
    return str(uuid4())


WORKER = {"worker": {"name": "pc-1", "version": "1.0", "device": "cpu", "models": ["demo"]}}
RESULT: dict[str, Any] = {
    "tumor_detected": False,
    "tumor_volume_voxels": 0,
    "tumor_volume_ml": 0.0,
    "segments": [],
    "elapsed_time_seconds": 1.5,
    "total_slices": SLICES,
    "start_slice_index": None,
    "end_slice_index": None,
    "model": {"name": "demo", "version": "1", "sha256": "0" * 64},
    "warnings": ["for research use only"],
}

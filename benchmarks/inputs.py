"""What it costs to bring one series to the lab: from the site, from the cache, from an Orthanc.

    python -m benchmarks.inputs [--slices 134 536] [--connections 1 4 8] [--json]

It starts a site and, where it is installed, an Orthanc in a temporary folder, both with the same
generated series (256 x 256, noise), and fetches them as the worker does: several in one answer, and
one by one as from a site that does not offer that. Beside the wall time stand the CPU seconds of
the worker's side and of the server's, which a noisy machine changes less.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import psutil

from tests.support import orthanc_server
from tests.support.live_site import LiveSite, live_environment, start_live, stop_live
from tests.support.small_series import mr_instance
from worker.adapters.input_cache import InputCache
from worker.adapters.inputs_http import HttpInputs
from worker.adapters.inputs_orthanc import OrthancInputs
from worker.adapters.queue_http import HttpQueue, WorkerInfo
from worker.core.job import Job
from worker.ports import InputSource
from worker.settings import CacheSettings, OrthancSettings, Settings, load_settings

REPOSITORY = Path(__file__).resolve().parents[1]
SIZE = 256
MODEL = "default_model: m\nmodels: {m: {path: here}}\n"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One way for one series."""

    way: str
    slices: int
    connections: int
    megabytes: float
    wall_s: float
    worker_cpu_s: float
    server_cpu_s: float


def write_series(folder: Path, slices: int) -> list[bytes]:
    """Write a series of noise, which no transfer can compress away."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(slices)
    root = f"2.25.{uuid4().int}"[:50]
    files = []
    for index in range(slices):
        pixels = noise.integers(0, 4096, (SIZE, SIZE), dtype="<u2")
        data = mr_instance(
            index,
            StudyInstanceUID=f"{root}.1",
            SeriesInstanceUID=f"{root}.2",
            FrameOfReferenceUID=f"{root}.3",
            Modality="MR",
            Rows=SIZE,
            Columns=SIZE,
            PixelData=pixels.tobytes(),
        )
        (folder / f"{index}.dcm").write_bytes(data)
        files.append(data)
    return files


def import_series(site: LiveSite, folder: Path) -> str:
    """Import a folder into the site and give the series' id."""
    known = _listed(site)
    subprocess.run(
        [sys.executable, "manage.py", "import_dicom", str(folder)],
        env=live_environment(site.data_dir),
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    (series_id,) = _listed(site) - known
    return series_id


def _listed(site: LiveSite) -> set[str]:
    with site.client() as page:
        return {str(one["id"]) for one in page.get("/series/").json()["series"]}


def claim(site: LiveSite, settings: Settings, series_id: str) -> Job:
    """File a request and take it, as a worker does."""
    with site.client() as page:
        page.post(
            f"/series/{series_id}/segment/",
            json={"sequence_series_ids": [series_id], "model": "m", "force": True},
            headers={"Prefer": "respond-async"},
        ).raise_for_status()
    info = WorkerInfo(name="bench", device="cpu", models=("m",))
    job = HttpQueue(settings.server, info).claim(str(uuid4()), wait_s=5).job
    if job is None:
        raise RuntimeError("the request was not granted")
    return job


def measure(
    way: str, inputs: InputSource, job: Job, folder: Path, *, connections: int, server_pid: int
) -> Figures:
    """Fetch a job's images once, into a folder that is deleted afterwards."""
    server = psutil.Process(server_pid)
    before, cpu, wall = _cpu_of(server), time.process_time(), time.monotonic()
    files = inputs.download(job, folder, on_progress=lambda _: None, is_cancelled=lambda: False)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    paths = [path for paths in files.values() for path in paths]
    figures = Figures(
        way=way,
        slices=len(paths),
        connections=connections,
        megabytes=round(sum(path.stat().st_size for path in paths) / 1e6, 1),
        wall_s=round(wall, 3),
        worker_cpu_s=round(cpu, 3),
        server_cpu_s=round(_cpu_of(server) - before, 3),
    )
    shutil.rmtree(folder)
    return figures


def _cpu_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def running_orthanc(folder: Path) -> Iterator[orthanc_server.OrthancServer | None]:
    """Run an Orthanc where it is installed."""
    if not orthanc_server.is_installed():
        yield None
        return
    server = orthanc_server.start(folder)
    try:
        yield server
    finally:
        server.stop()


def run(folder: Path, slices: Sequence[int], connections: Sequence[int]) -> Iterator[Figures]:
    """Measure every way for every series."""
    site = start_live(folder / "live")
    try:
        with running_orthanc(folder / "orthanc") as orthanc:
            (folder / "config.yaml").write_text(MODEL)
            given = {"WORKER_TOKEN": site.secrets["lab"], "DJANGO_API_URL": site.url}
            settings = load_settings(folder / "config.yaml", given)
            for count in slices:
                files = write_series(folder / f"series-{count}", count)
                series_id = import_series(site, folder / f"series-{count}")
                job = claim(site, settings, series_id)
                yield from _from_site(site, settings, job, folder, connections)
                if orthanc is not None:
                    for data in files:
                        orthanc.call("POST", "/instances", data=data)
                    yield from _from_orthanc(orthanc, settings, job, folder, connections)
    finally:
        stop_live(site)


def _from_site(
    site: LiveSite, settings: Settings, job: Job, folder: Path, connections: Sequence[int]
) -> Iterator[Figures]:
    on = CacheSettings(max_bytes=10_000_000_000, max_age_s=3600)
    for number in connections:
        cache = InputCache(folder, on)
        cache.clear()
        inputs = HttpInputs(settings.server, downloads=number, cache=cache)
        alone = replace(job, instances_at_once=1)
        one_by_one = HttpInputs(settings.server, downloads=number)
        for way, source, given in (
            ("site, one by one", one_by_one, alone),
            ("site", inputs, job),
            ("cache", inputs, job),
        ):
            yield measure(
                way, source, given, folder / "in", connections=number, server_pid=site.process.pid
            )


def _from_orthanc(
    orthanc: orthanc_server.OrthancServer,
    settings: Settings,
    job: Job,
    folder: Path,
    connections: Sequence[int],
) -> Iterator[Figures]:
    pacs = OrthancSettings(
        url=orthanc.url, user=orthanc_server.USER, password=orthanc_server.PASSWORD
    )
    for number in connections:
        inputs = OrthancInputs(pacs, settings.server, downloads=number)
        yield measure(
            "orthanc",
            inputs,
            job,
            folder / "in",
            connections=number,
            server_pid=orthanc.process.pid,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, nargs="+", default=[134, 536])
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    if not options.as_json:
        print("| way | images | connections | MB | wall s | worker CPU s | server CPU s |")
        print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for one in run(Path(folder), options.slices, options.connections):
            if options.as_json:
                print(json.dumps(asdict(one)), flush=True)
            else:
                print("| " + " | ".join(str(value) for value in asdict(one).values()) + " |")


if __name__ == "__main__":
    main()

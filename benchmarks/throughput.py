"""Cases in a row through site and worker: seconds a case, and the slowest stage alone.

    python -m benchmarks.throughput [--cases 20] [--size 240x240x155x4] [--processes 3]
                                    [--device-s 2 | --model NAME] [--old-cases 2] [--json FILE]

It starts a site and `python -m worker run` in a temporary folder, imports one examination, and
files the requests at once through the public API. Kept images are switched off, so every case is
fetched anew. First a few cases go through one at a time (`prefetch: 0`, one process): that gives
each stage alone. Then all of them go through as the worker is set up by default, or with
`--processes`. The figure is the time from the first finished case to the last, by the number of
cases between; a perfect overlap makes it the slowest stage's seconds alone.

By default the network is one that waits `--device-s` seconds and takes no processor: what a GPU is
to the rest. `--model demo_brain_tumor` runs the project's own instead, on whatever device there is.

The old way (`benchmarks/old_way.py`) gets the same files, from an Orthanc where one is installed,
one by one, and loads the model for each case. It slept 30 s between two polls; nothing sleeps here:
half of that is added to a request that comes alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.inputs import running_orthanc
from benchmarks.made_case import FULL, MadeCase, make_case, size_of
from benchmarks.made_engine import write_waiting_bundle
from benchmarks.models import REPOSITORY
from benchmarks.old_way import MEAN_WAIT_S
from benchmarks.stage_meter import run_program
from benchmarks.stages import OWN
from benchmarks.whole_path import PASSWORD, TIMEOUT_S, BenchPlace, running_site
from demo.children import Children
from demo.front_end import FrontEnd
from tests.support import orthanc_server

WAITING = "waiting"
ALONE_CASES = 3

# The parts that can go on at the same time, by the names in the worker's log.
STAGES: Mapping[str, tuple[str, ...]] = {
    "download": ("downloading_s",),
    "load": ("read_s", "decode_s", "register_s", "resample_s"),
    "infer": ("load_model_s", "infer_s"),
    "write": ("postprocess_s", "seg_s", "check_s", "nifti_s", "measure_s", "preview_s"),
    "upload": ("upload_s",),
}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How the worker is set up."""

    model: str
    device_s: float
    processes: int | None = None
    prefetch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """Some cases in a row."""

    cases: int
    seconds_per_case: float
    first_to_last_s: float
    worker_cpu_s_per_case: float
    stages: Mapping[str, float]  # medians

    @property
    def slowest(self) -> tuple[str, float]:
        """The stage that takes longest, and how long."""
        name = max(self.stages, key=lambda stage: self.stages[stage])
        return name, self.stages[name]


class ThroughputPlace(BenchPlace):
    """A folder whose worker keeps no images and logs for programs."""

    def __init__(self, folder: Path, setup: Setup) -> None:
        super().__init__(folder, setup.model)
        self._setup = setup

    def _write_config(self) -> Path:
        path = super()._write_config()
        config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        if self._setup.model == WAITING:
            config["models"][WAITING] = self._waiting(config["models"][OWN])
        config["models"] = {self._setup.model: config["models"][self._setup.model]}
        config["cache"] = {"max_bytes": 0}
        config["log"] = {**config["log"], "format": "json"}
        if self._setup.processes is not None:
            config["inference"]["processes"] = self._setup.processes
        if self._setup.prefetch is not None:
            config["worker"]["prefetch"] = self._setup.prefetch
        path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
        return path

    def _waiting(self, own: Mapping[str, Any]) -> dict[str, Any]:
        folder = self.folder / WAITING
        if not folder.exists():
            write_waiting_bundle(Path(own["path"]), folder, self._setup.device_s)
        return {**own, "path": str(folder), "options": {"allow_random_weights": True}}

    def finished(self) -> list[dict[str, Any]]:
        """Read what the worker's log says of each finished case, in order."""
        found = []
        for line in (self.logs / "worker.log").read_text(encoding="utf-8").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a library's own words
            if isinstance(event, dict) and event.get("event") == "case_finished":
                found.append(event)
        return found


def run_cases(folder: Path, made: MadeCase, setup: Setup, cases: int) -> Run:
    """Take cases through a site and a worker; one more, beforehand, is not counted."""
    place = ThroughputPlace(folder, setup)
    place.make()
    place.prepare(PASSWORD)
    place.pin()
    uids = place.import_folders(made.folders)
    with running_site(place) as (front_end, children, processes):
        ids = {item["series_uid"]: item["id"] for item in front_end.list_series()}
        series = [ids[uid] for uid in uids]
        _finish(front_end, children, [front_end.file_request(series, setup.model)])
        cpu = _cpu_of(processes["worker"])
        filed = [front_end.file_request(series, setup.model) for _ in range(cases)]
        _finish(front_end, children, filed)
        cpu = _cpu_of(processes["worker"]) - cpu
    events = place.finished()[-cases:]
    moments = [datetime.fromisoformat(event["time"]).timestamp() for event in events]
    first_to_last_s = max(moments) - min(moments)
    return Run(
        cases=cases,
        seconds_per_case=round(first_to_last_s / (cases - 1), 3),
        first_to_last_s=round(first_to_last_s, 3),
        worker_cpu_s_per_case=round(cpu / cases, 3),
        stages={name: _median(events, fields) for name, fields in STAGES.items()},
    )


def _median(events: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> float:
    sums = [sum(event.get(field, 0.0) for field in fields) for event in events]
    return round(statistics.median(sums), 3)


def _finish(front_end: FrontEnd, children: Children, requests: Sequence[str]) -> None:
    for request_id in requests:
        *_, last = front_end.follow(request_id, timeout_s=TIMEOUT_S, check=children.check)
        if last.status != "completed":
            raise RuntimeError(f"a case ended as {last.status}: {last.body.get('failure')}")


def _cpu_of(pid: int) -> float:
    """Give the CPU seconds of a worker with its children that are alive."""
    root = psutil.Process(pid)
    times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
    return sum(item.user + item.system for item in times)


@dataclass(frozen=True, kw_only=True)
class OldRun:
    """The same cases the old way."""

    cases: int
    source: str
    seconds_per_case: float
    cpu_s_per_case: float
    mean_wait_for_poll_s: float = MEAN_WAIT_S


def run_old_way(folder: Path, made: MadeCase, cases: int) -> OldRun:
    """Run the old script on some cases in a row, with the project's own network."""
    bundle = REPOSITORY / "models" / OWN
    command = [sys.executable, "-m", "benchmarks.old_way", *[str(made.folders[0].parent)] * cases]
    command += ["--bundle", str(bundle), "--out", str(folder / "old")]
    with running_orthanc(folder / "orthanc") as orthanc:
        if orthanc is not None:
            for path in (path for series in made.folders for path in series.iterdir()):
                orthanc.call("POST", "/instances", data=path.read_bytes())
            command += ["--orthanc", orthanc.url, orthanc_server.USER, orthanc_server.PASSWORD]
        cost = run_program(command, cwd=REPOSITORY)
    return OldRun(
        cases=cases,
        source="files on the disk" if orthanc is None else "Orthanc, one by one",
        seconds_per_case=round(cost.wall_s / cases, 3),
        cpu_s_per_case=round(cost.cpu_s / cases, 3),
    )


def _text(name: str, run: Run) -> str:
    stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in run.stages.items())
    return (
        f"{name}: {run.seconds_per_case:.2f} s a case ({run.cases} cases, "
        f"{run.worker_cpu_s_per_case:.2f} CPU-s each in the worker)\n  stages, median s: {stages}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--size", type=size_of, default=FULL, help="such as 240x240x155x4")
    parser.add_argument("--model", choices=(WAITING, OWN), default=WAITING)
    parser.add_argument("--device-s", type=float, default=2.0, help="of the network that waits")
    parser.add_argument("--processes", type=int, help="inference.processes; the worker's choice")
    parser.add_argument("--old-cases", type=int, default=2, help="0: not the old way")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if options.cases < 2:
        parser.error("--cases: expected at least 2, since the time between two is measured")
    alone = Setup(model=options.model, device_s=options.device_s, processes=1, prefetch=0)
    overlapped = Setup(model=options.model, device_s=options.device_s, processes=options.processes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = make_case(folder / "case", options.size)
        one = run_cases(folder / "alone", made, alone, min(ALONE_CASES, options.cases))
        print(_text("one at a time", one), flush=True)
        many = run_cases(folder / "in-a-row", made, overlapped, options.cases)
        print(_text("in a row", many), flush=True)
        stage, seconds = one.slowest
        ratio = many.seconds_per_case / seconds
        # A busy machine makes a stage dearer at one time than at another: so also within one run.
        ratio_in_run = many.seconds_per_case / many.stages[stage]
        print(
            f"slowest stage alone: {stage}, {seconds:.2f} s; a case in a row: {ratio:.2f} of it, "
            f"{ratio_in_run:.2f} of what this stage took in the row"
        )
        old = run_old_way(folder, made, options.old_cases) if options.old_cases else None
        if old is not None:
            print(
                f"the old way, from {old.source}: {old.seconds_per_case:.2f} s a case "
                f"({old.cpu_s_per_case:.2f} CPU-s), and a request that comes alone waits "
                f"{old.mean_wait_for_poll_s:.0f} s for the poll"
            )
    if options.json:
        body = {
            "size": options.size,
            "one_at_a_time": asdict(one),
            "in_a_row": asdict(many),
            "slowest_stage": stage,
            "ratio": round(ratio, 3),
            "ratio_in_run": round(ratio_in_run, 3),
            "old_way": asdict(old) if old else None,
        }
        options.json.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

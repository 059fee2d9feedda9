"""Time and memory of every stage of one case: import, POST, worker, mask, as its users would.

    python -m benchmarks.whole_path SERIES_DIR... --model gwm_light [--expected MASK.nii.gz]

It starts a site and a worker of its own in a temporary folder, imports the folders (in the
network's channel order, the first one is the main series), files a request through the public API,
and prints a table or, with `--json`, everything. The models are those of `benchmarks/models.py`
and the project's own. With `--expected` it compares the mask that came back with one on the same
grid.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil
import pydicom
import yaml

from benchmarks.models import REPOSITORY, real_models
from demo.children import Child, Children
from demo.front_end import FrontEnd, State
from demo.place import Place

SAMPLE_S = 0.2  # between two looks at the memory
TIMEOUT_S = 3600.0
PASSWORD = "not a secret 1"  # of a site on loopback that ends with the run


@dataclass(frozen=True, kw_only=True)
class CaseFigures:
    """What one case cost and gave."""

    status: Mapping[str, Any]
    files: Mapping[str, Path]
    seconds: Mapping[str, float]  # seen from outside, by stage
    report: Mapping[str, Any]
    peak_memory_mb: Mapping[str, float]  # by program: site, worker, inference


class BenchPlace(Place):
    """The demonstration's folder, with the models of the benchmarks in its configuration."""

    def __init__(self, folder: Path, model: str) -> None:
        super().__init__(REPOSITORY, folder)
        self._model = model

    def import_folders(self, folders: Sequence[Path]) -> list[str]:
        """Import each folder; return their SeriesInstanceUIDs in the same order."""
        for folder in folders:
            self._manage("import_dicom", str(folder), what=f"importing {folder.name}")
        return [_series_uid(folder) for folder in folders]

    def pin(self) -> None:
        """Agree to the model, as an engineer would, on the command line."""
        command = [sys.executable, "-m", "worker", "models", "add", self._model]
        config = str(self._write_config())
        self._program([*command, "--config", config], what=f"adding {self._model}")

    def start_worker(self, children: Children, address: str, token: str) -> Child:
        """Start the worker with the configuration of the benchmarks."""
        command = [sys.executable, "-m", "worker", "run"]
        command += ["--config", str(self._config), "--name", "bench-worker"]
        environ = self._environ(DJANGO_API_URL=address, WORKER_TOKEN=token)
        log = self.logs / "worker.log"
        return children.start("worker", command, environ=environ, log=log, cwd=self.root)

    @property
    def _config(self) -> Path:
        return self.folder / "config.yaml"

    def _write_config(self) -> Path:
        """Write the project's configuration with the benchmarks' models and folders."""
        text = (self.root / "config.yaml").read_text(encoding="utf-8")
        config: dict[str, Any] = yaml.safe_load(text)
        for model in config["models"].values():
            model["path"] = str(self.root / model["path"])
        config["models"].update(real_models())
        config["default_model"] = self._model
        config["worker"] = {**config["worker"], "work_dir": str(self.folder / "worker")}
        self._config.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
        return self._config


@dataclass
class StageClock:
    """Seconds that a request spent in each stage, as its status shows them."""

    began: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)

    def look(self, state: State) -> None:
        """Add the time since the last look to the stage that was just seen."""
        now = time.monotonic()
        stage = state.stage if state.status == "processing" and state.stage else state.status
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.began
        self.began = now


class MemoryWatch:
    """Largest resident memory of the site, the worker and its child, sampled from outside."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = roots
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_mb: dict[str, float] = {}

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            for name, pid in self._roots.items():
                try:
                    root = psutil.Process(pid)
                    self._note(name, root)
                    for child in root.children(recursive=True):
                        self._note("inference", child)
                except psutil.Error:
                    continue

    def _note(self, name: str, process: psutil.Process) -> None:
        megabytes = process.memory_info().rss / 1e6
        self.peak_mb[name] = max(self.peak_mb.get(name, 0.0), megabytes)


@contextmanager
def running_site(place: BenchPlace) -> Iterator[tuple[FrontEnd, Children, Mapping[str, int]]]:
    """Run a site and a worker in `place`; stop both at the end."""
    children = Children(place.state)
    try:
        site, address = place.start_site(children)
        access = place.find_access()
        front_end = FrontEnd(address, access.user_token)
        while not front_end.is_up():
            children.check()
            time.sleep(0.1)
        worker = place.start_worker(children, address, access.worker_token)
        yield front_end, children, {"site": site.process.pid, "worker": worker.process.pid}
    finally:
        children.stop()


def run_case(folders: Sequence[Path], *, model: str, folder: Path) -> CaseFigures:
    """Take one case through the whole path.

    Parameters
    ----------
    folders : sequence of Path
        One series each, in the network's channel order; the first is the main series.
    model : str
        A name in `benchmarks/models.py`, or the project's own.
    folder : Path
        Where everything is kept.
    """
    place = BenchPlace(folder, model)
    place.make()
    place.prepare(PASSWORD)
    place.pin()
    began = time.monotonic()
    uids = place.import_folders(folders)
    seconds = {"import": time.monotonic() - began}
    with running_site(place) as (front_end, children, pids), MemoryWatch(pids) as memory:
        ids = {item["series_uid"]: item["id"] for item in front_end.list_series()}
        request_id = front_end.file_request([ids[uid] for uid in uids], model=model)
        clock = StageClock()
        status: Mapping[str, Any] = {}
        for state in front_end.follow(request_id, timeout_s=TIMEOUT_S, check=children.check):
            clock.look(state)
            status = state.body
        files: Mapping[str, Path] = {}
        if status["status"] == "completed":
            fetched = front_end.fetch_artifacts(status, place.results)
            files = {path.name: path for path in fetched}
    report = json.loads(files["report.json"].read_text("utf-8")) if files else {}
    return CaseFigures(
        status=status,
        files=files,
        seconds={**seconds, **clock.seconds},
        report=report,
        peak_memory_mb=memory.peak_mb,
    )


def compare(mask: Path, expected: Path) -> dict[int, dict[str, float]]:
    """Compare two label maps on one grid: Dice and volume ratio of each label, by value.

    Raises
    ------
    ValueError
        The grids differ: nothing is resampled here.
    """
    ours, theirs = nibabel.load(mask), nibabel.load(expected)
    if ours.shape != theirs.shape or not np.allclose(ours.affine, theirs.affine, atol=1e-3):
        ours = _on_axes_of(ours, theirs)
    got, truth = np.asarray(ours.dataobj), np.asarray(theirs.dataobj)
    figures = {}
    for label in (int(value) for value in np.unique(truth) if value):
        inside, expected_inside = got == label, truth == label
        common = np.count_nonzero(inside & expected_inside)
        both = np.count_nonzero(inside) + np.count_nonzero(expected_inside)
        ratio = np.count_nonzero(inside) / np.count_nonzero(expected_inside)
        figures[label] = {"dice": float(2 * common / both), "volume_ratio": float(ratio)}
    return figures


def _on_axes_of(image: Any, target: Any) -> Any:
    """Flip and permute axes only; raise where that does not make the grids equal."""
    orientation = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.io_orientation(target.affine)
    )
    turned = image.as_reoriented(orientation)
    if turned.shape != target.shape or not np.allclose(turned.affine, target.affine, atol=1e-3):
        raise ValueError(f"The masks lie on different grids: {image.shape}, {target.shape}.")
    return turned


def _series_uid(folder: Path) -> str:
    first = next(path for path in sorted(folder.rglob("*")) if path.is_file())
    return str(pydicom.dcmread(first, stop_before_pixels=True).SeriesInstanceUID)


def count_dciodvfy_errors(mask: Path) -> int | None:
    """Count the errors that dciodvfy finds; None where it is not installed."""
    try:
        told = subprocess.run(
            ["dciodvfy", "-new", str(mask)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return sum(line.startswith("Error") for line in told.stderr.splitlines())


def describe(figures: CaseFigures) -> str:
    """Write the table."""
    result = figures.status.get("result") or {}
    rows = [f"status      {figures.status['status']} {figures.status.get('failure') or ''}"]
    rows += [
        f"segment     {item['number']} {item['label']}: {item['volume_ml']:.2f} mL"
        for item in result.get("segments", [])
    ]
    rows += [f"seen        {name:<12} {value:8.1f} s" for name, value in figures.seconds.items()]
    rows += [
        f"inside      {name:<12} {value:8.2f} s"
        for name, value in (figures.report.get("timings") or {}).items()
        if isinstance(value, int | float)
    ]
    rows += [f"memory      {name:<12} {mb:8.0f} MB" for name, mb in figures.peak_memory_mb.items()]
    rows += [f"warning     {text}" for text in result.get("warnings", [])]
    return "\n".join(rows)


def main() -> int:
    """Run one case from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    parser.add_argument("series", nargs="+", type=Path, metavar="SERIES_DIR")
    parser.add_argument("--model", default="demo_brain_tumor")
    parser.add_argument("--expected", type=Path, help="label map (NIfTI) on the main series' grid")
    parser.add_argument("--folder", type=Path, help="keep everything here")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures = run_case(
            [path.resolve() for path in options.series],
            model=options.model,
            folder=options.folder or Path(temporary),
        )
        told: dict[str, Any] = {
            "status": figures.status,
            "seconds": figures.seconds,
            "report": figures.report,
            "peak_memory_mb": figures.peak_memory_mb,
        }
        if figures.files:
            told["dciodvfy_errors"] = count_dciodvfy_errors(figures.files["mask.dcm"])
            if options.expected:
                told["compared"] = compare(figures.files["mask.nii.gz"], options.expected)
    if options.as_json:
        print(json.dumps(told, indent=2, default=str))
    else:
        print(describe(figures))
        for name in ("dciodvfy_errors", "compared"):
            if name in told:
                print(f"{name}: {told[name]}")
    return 0 if figures.files else 1


class _Raw(argparse.RawDescriptionHelpFormatter):
    """Keep the lines of the description as they stand."""


if __name__ == "__main__":
    sys.exit(main())

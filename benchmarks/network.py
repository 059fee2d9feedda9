"""The network, and one case from DICOM files on the disk to the DICOM SEG, warm in one process.

    python -m benchmarks.models --device cuda [--size 240x240x155x4] [--model brats]
                                [--rounds 5] [--with-compile] [--json FILE]

First the ways of running the network are measured as `mri-worker models bench` does, against
contiguous float32 on the model's own windows. Then the best that gives the same mask is compared
with the bundle's own inference configuration: its inferer, its precision, and cuDNN's benchmark
mode, which the zoo's bundles switch on. Then whole cases run in that mode.

The model is the model zoo's BraTS configuration with random weights on a GPU, where it is at hand
(`SEGMENTATION_TEST_DATA`), since time does not depend on the weights, and the project's own else;
on a CPU the volume is small unless a size is given.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.made_case import FULL, MadeCase, Size, make_case, size_of
from benchmarks.models import real_data_folder
from benchmarks.stages import OWN, ZOO, Bundles
from worker.adapters.engine_monai import MonaiEngine
from worker.adapters.engine_monai.proof import Measured, Trial
from worker.adapters.engine_monai.roofline import Roofline, Work, count_work, roofline
from worker.adapters.engine_monai.search import Found, keep, search
from worker.case_inputs import load_inputs
from worker.catalogue import ModelEntry
from worker.core.job import MASK_DICOM
from worker.model_memory import Mode, ModelMemory
from worker.model_tables import print_modes
from worker.pipeline import segment_case
from worker.timings import Timings

SMALL: Size = (56, 56, 40, 4)
# Until the DICOM SEG lies on the disk; what follows is for people.
_UNTIL_SEG = ("read", "decode", "resample", "load_model", "infer", "postprocess", "seg")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured."""

    hardware: str
    model: str
    size: Size
    found: Found
    own: Measured
    work: Work
    limits: Roofline
    whole_s: tuple[float, ...]
    stages: Mapping[str, float]
    seg_bytes: int

    @property
    def until_seg_s(self) -> float:
        """Seconds from the files to the DICOM SEG: the medians of its stages."""
        return sum(self.stages.get(name, 0.0) for name in _UNTIL_SEG)

    @property
    def ratio(self) -> float:
        """How many times the network is faster than by the bundle's own configuration."""
        return self.own.median_s / self.found.best.median_s

    def to_json(self) -> dict[str, Any]:
        """Give everything as plain values."""
        return {
            "hardware": self.hardware,
            "torch": str(torch.__version__),
            "model": self.model,
            "size": self.size,
            "tried": [_measured(one) for one in self.found.tried],
            "best": _measured(self.found.best),
            "left_out": self.found.left_out,
            "own_configuration": _measured(self.own),
            "network_times_faster": self.ratio,
            "gflop": self.work.flops / 1e9,
            "least_s": self.limits.least_s,
            "share_of_roofline": self.limits.share,
            "whole_case_s": self.whole_s,
            "until_seg_s": self.until_seg_s,
            "stages_s": self.stages,
            "seg_bytes": self.seg_bytes,
        }


def measure(folder: Path, options: argparse.Namespace) -> Figures:
    """Measure one model on one device."""
    known = ModelMemory(folder / "known")
    engine = MonaiEngine(options.device, known=known)
    made = make_case(folder / "case", options.size)
    entry = Bundles(folder, [options.model]).find(options.model)
    return measure_entry(folder, made, entry, engine, known, options)


def measure_entry(
    folder: Path,
    made: MadeCase,
    entry: ModelEntry,
    engine: MonaiEngine,
    known: ModelMemory,
    options: argparse.Namespace,
) -> Figures:
    """Measure a model that was found, on a case that was made."""
    loaded = load_inputs(made.case(folder, entry.name), entry, Timings(), lambda _: None)
    trial = Trial(engine, entry, loaded.channels, loaded.main.geometry.affine_ras)
    found = search(trial, repeat=options.rounds, with_compile=options.with_compile)
    own = own_configuration(trial, options.rounds)
    keep(found, trial, known)
    work = count_work(engine.parts(entry), trial.image, found.best.mode, engine.hardware)
    precision = found.best.mode.precision
    limits = roofline(work, found.best.median_s, precision, engine.hardware)
    del trial, loaded
    whole, stages, size = run_cases(made, entry, engine, folder / "out", options.rounds)
    return Figures(
        hardware=engine.hardware.name,
        model=entry.name,
        size=options.size,
        found=found,
        own=own,
        work=work,
        limits=limits,
        whole_s=whole,
        stages=stages,
        seg_bytes=size,
    )


def own_configuration(trial: Trial, rounds: int) -> Measured:
    """Run the network as the bundle's own inference configuration does."""
    parts = trial.engine.parts(trial.entry)
    is_half = parts.is_mixed_precision and trial.engine.hardware.is_card
    trial.reference()  # before cuDNN's switches are turned
    with _benchmark_mode():
        return trial.measure(Mode(precision="fp16" if is_half else "float32"), repeat=rounds)


@contextmanager
def _benchmark_mode() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before = (cudnn.benchmark, cudnn.deterministic)
    cudnn.benchmark, cudnn.deterministic = True, False
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


def run_cases(
    made: MadeCase, entry: ModelEntry, engine: MonaiEngine, out: Path, rounds: int
) -> tuple[tuple[float, ...], dict[str, float], int]:
    """Segment one case some times, once more beforehand to warm up."""
    whole, stages = [], list[Mapping[str, float]]()
    for _ in range(rounds + 1):
        began = time.perf_counter()
        result = segment_case(
            made.case(out, entry.name),
            model=entry,
            engine=engine,
            on_progress=lambda _stage, _fraction: None,
        )
        whole.append(time.perf_counter() - began)
        stages.append(result.timings)
    medians = {
        name: statistics.median(one[name] for one in stages[1:] if name in one)
        for name in stages[-1]
    }
    return tuple(whole[1:]), medians, (out / MASK_DICOM).stat().st_size


def _measured(one: Measured) -> dict[str, Any]:
    return {
        "mode": one.mode.describe(),
        "median_s": one.median_s if one.seconds else None,
        "seconds": one.seconds,
        "peak_bytes": one.peak_bytes,
        "least_dice": one.least_dice,
        "utilisation": one.utilisation,
        "problem": one.problem,
    }


def show(figures: Figures) -> None:
    """Print the tables."""
    print(f"{figures.model}, {figures.hardware}, {'x'.join(map(str, figures.size))}")
    print_modes(figures.found)
    best, own = figures.found.best, figures.own
    busy = "not known" if best.utilisation is None else f"{best.utilisation:.0%}"
    rows = (
        ("network, best that agrees", f"{best.median_s:.4f} s ({best.mode.describe()})"),
        ("network, the bundle's own configuration", f"{own.median_s:.4f} s"),
        ("times faster", f"{figures.ratio:.2f}"),
        ("least Dice of best, of own", f"{best.least_dice:.5f}, {own.least_dice:.5f}"),
        ("GPU busy while inferring", busy),
        ("peak memory", f"{best.peak_bytes / 1e6:.0f} MB"),
        (
            "roofline: least, share reached",
            f"{figures.limits.least_s:.4f} s, {figures.limits.share:.0%}",
        ),
        *((f"case: {name}", f"{seconds:.4f} s") for name, seconds in figures.stages.items()),
        ("case: files to DICOM SEG", f"{figures.until_seg_s:.4f} s"),
        ("case: all artifacts", f"{statistics.median(figures.whole_s):.4f} s"),
    )
    table = Table(show_header=False)
    for name, value in rows:
        table.add_row(name, value)
    Console(highlight=False).print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--size", type=size_of, help="such as 240x240x155x4")
    parser.add_argument("--model", choices=(ZOO, OWN))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--with-compile", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    is_gpu = options.device.startswith("cuda") or (
        options.device == "auto" and torch.cuda.is_available()
    )
    has_zoo = (real_data_folder() / "brats_mri_segmentation").is_dir()
    options.size = options.size or (FULL if is_gpu else SMALL)
    options.model = options.model or (ZOO if is_gpu and has_zoo else OWN)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options)
    show(figures)
    if options.json:
        text = json.dumps(figures.to_json(), indent=2) + "\n"
        options.json.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

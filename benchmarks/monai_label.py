"""The same case and bundle by MONAI Label's server (0.8.5), beside this project, both warm.

    python -m benchmarks.monai_label --python ENV/bin/python [--size 240x240x155x4] [--rounds 3]

MONAI Label needs pydicom 2 and so an environment of its own (`monai_label.requirements.txt`):

    python3.11 -m venv ENV
    ENV/bin/pip install -r benchmarks/monai_label.requirements.txt
    ENV/bin/pip install --no-deps monailabel==0.8.5

Its server runs its sample app `monaibundle` with the bundle `thin_brats` (`benchmarks/stages.py`;
the model zoo's BraTS bundle must be at hand, `SEGMENTATION_TEST_DATA`) and is asked for the case
over HTTP; this project segments it in this process; they take turns.

- MONAI Label gets one NIfTI file of four channels, made beforehand, and gives a NIfTI mask. It
  can't start from DICOM here: an image of its DICOMweb store is one series, which reaches the
  network as one channel instead of four; what it answers to such a volume is shown. What its own
  functions take to turn four series into NIfTI files and a mask into DICOM SEG is a row of its own.
- This project goes from DICOM files to DICOM SEG, NIfTI, picture and report.

Worked round in temporary copies: the bundle's LoadImaged is told to put channels first (a NIfTI
file has them last); its values 1, 2, 4 are named (MONAI Label takes the network's channels for
labels); the request asks for uint8 (the bundle's int64 can't be written); torchvision is replaced
by an empty stand-in (imported for pictures of a training only; it fits one build of torch each).

CPU seconds and memory are those of the server's processes; memory counts above what they hold
warm, which is printed, too. Peaks are read from /proc, so it runs on Linux only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.made_case import FULL, Size, make_case, size_of, write_volumes
from benchmarks.models import real_data_folder
from benchmarks.monai_label_server import (
    ONE_SERIES,
    Place,
    Server,
    measure_dicom,
    running_server,
)
from benchmarks.stage_meter import Cost, Round, Summary, describe, summarise
from benchmarks.stages import NETWORK, THIN, VOLUMES, Bundles, WarmCase, stage_table
from benchmarks.whole_path import compare

HOW_TO = (
    "MONAI Label needs an environment of its own: make it with `python3.11 -m venv ENV && "
    "ENV/bin/pip install -r benchmarks/monai_label.requirements.txt && "
    "ENV/bin/pip install --no-deps monailabel==0.8.5` and name its Python, --python ENV/bin/python."
)
SAID = ("pre", "infer", "invert", "post", "write", "total")
SERVER, OURS = "MONAI Label, from NIfTI", "this project, from DICOM"
DICOM, BOTH = "its DICOM to NIfTI, to SEG", "MONAI Label with these"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was measured."""

    rows: tuple[Summary, ...]
    ours: tuple[Round, ...]
    server_says_s: Mapping[str, float]  # wall seconds, by stage, medians
    info_s: Mapping[str, float]
    holds_mb: Mapping[str, float]
    status_of_one_series: int
    masks_agree: Mapping[str, Any]

    def ratios(self) -> dict[str, dict[str, float]]:
        """Divide this project's figures by MONAI Label's, with and without its DICOM steps."""
        rows = {row.name: row for row in self.rows}
        return {
            name: {
                figure: round(getattr(rows[OURS], figure) / getattr(rows[name], figure), 2)
                for figure in ("cpu_s", "wall_s", "peak_mb")
            }
            for name in (SERVER, BOTH)
        }

    def text(self) -> str:
        """Write it."""
        lines = [describe(f"{THIN}, warm, on a CPU", self.rows)]
        lines += [f"  this project / {name}: {found}" for name, found in self.ratios().items()]
        lines += [
            f"  MONAI Label's own wall seconds: {self.server_says_s}",
            f"  its /info/, seconds: {self.info_s}",
            f"  held beforehand, the model loaded, MB: {self.holds_mb}",
            f"  it answers a volume of one series with {self.status_of_one_series}",
            f"  masks: {self.masks_agree}",
            stage_table("This project's stages", self.ours, network=NETWORK).text(),
        ]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Turns:
    """What came of the turns that the two took."""

    theirs: tuple[Cost, ...]
    ours: tuple[Round, ...]
    said: tuple[Mapping[str, float], ...]  # the server's own wall seconds, by stage
    mask: bytes
    holds_mb: Mapping[str, float]


def take_turns(server: Server, segment: Callable[[], Round], rounds: int) -> Turns:
    """Have the case segmented by both some times, once more beforehand to warm up."""
    server.ask()
    held = {SERVER: server.tree.held_bytes(), OURS: psutil.Process().memory_info().rss}
    segment()
    theirs, ours = list[Cost](), list[Round]()
    answers = list[tuple[Mapping[str, Any], bytes]]()
    for _ in range(rounds):
        theirs.append(server.tree.measure(lambda: answers.append(server.ask())))
        ours.append(segment())
    return Turns(
        theirs=tuple(theirs),
        ours=tuple(ours),
        said=tuple(answer["latencies"] for answer, _ in answers),
        mask=answers[-1][1],
        holds_mb={name: round(size / 1e6) for name, size in held.items()},
    )


def run(python: Path, folder: Path, size: Size, rounds: int) -> Found:
    """Measure both, in turns."""
    from worker.adapters.engine_monai import MonaiEngine

    made = make_case(folder / "case", size)
    place = Place(python=python, folder=folder / "monai-label")
    place.prepare(write_volumes(made, folder / "volumes", VOLUMES))
    model, engine, out = Bundles(folder, [THIN]).find(THIN), MonaiEngine("cpu"), folder / "ours"

    case = WarmCase(made, out, model, engine, is_kept=True)
    with running_server(place) as server:
        turns = take_turns(server, case.run, rounds)
        info = {"idle": server.info_s(), "while it infers": server.info_while_busy_s()}
        status = server.status_of(ONE_SERIES)
    mask = folder / "theirs.nii.gz"
    mask.write_bytes(turns.mask)
    agreement = compare(out / "mask.nii.gz", mask)
    return Found(
        rows=_rows(turns, measure_dicom(place, made, mask, rounds)),
        ours=turns.ours,
        server_says_s={name: median(one[name] for one in turns.said) for name in SAID},
        info_s={name: round(seconds, 3) for name, seconds in info.items()},
        holds_mb=turns.holds_mb,
        status_of_one_series=status,
        masks_agree={str(label): figures for label, figures in agreement.items()},
    )


def _rows(turns: Turns, dicom: Sequence[Cost]) -> tuple[Summary, ...]:
    both = [_sum(*pair) for pair in zip(turns.theirs, dicom, strict=True)]
    ours = [one.whole for one in turns.ours]
    measured = {SERVER: turns.theirs, DICOM: dicom, BOTH: both, OURS: ours}
    return tuple(summarise(name, costs) for name, costs in measured.items())


def _sum(one: Cost, other: Cost) -> Cost:
    return Cost(
        wall_s=one.wall_s + other.wall_s,
        cpu_s=one.cpu_s + other.cpu_s,
        peak_mb=max(one.peak_mb, other.peak_mb),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.monai_label",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--python", type=Path, help="of MONAI Label's environment")
    parser.add_argument("--size", type=size_of, default=FULL, help="such as 240x240x155x4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if options.python is None or not options.python.exists():
        raise SystemExit(HOW_TO)
    if not (real_data_folder() / "brats_mri_segmentation").is_dir():
        raise SystemExit("The model zoo's BraTS bundle is not at hand: set SEGMENTATION_TEST_DATA.")
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        # Not resolved: a link to the system's Python would lead out of the environment.
        found = run(options.python.absolute(), Path(folder), options.size, options.rounds)
    print(found.text())
    if options.json:
        body = {"size": options.size, "ratios": found.ratios(), **asdict(found)}
        options.json.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

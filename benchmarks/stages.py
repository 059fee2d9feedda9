"""What each stage of one case costs, and the same case by `monai.bundle run` and the old way.

    python -m benchmarks.stages [--size 240x240x155x4] [--rounds 3] [--json FILE] [--stages-only]

A made-up head of this size (columns x rows x slices x series) goes through the worker's pipeline in
this process: first with masks that are known beforehand, so that everything but the network is
seen, once with all series on one grid and once with the further ones tilted; then with bundles. The
same bundles and volumes then go through three programs from their start to the written result:
`python -m worker segment`, `python -m monai.bundle run` (its volumes are NIfTI files made for it
beforehand, and it writes no DICOM) and `benchmarks/old_way.py`. Their masks are compared.

Bundles: the project's own; where it is at hand (`SEGMENTATION_TEST_DATA`) the model zoo's BraTS
bundle with one convolution for its network (`thin_brats`), and by `--models brats` with its own
network and random weights.

CPU seconds are those of all threads; on a machine that others use, too, they say more than the wall
time. Memory counts above what the process holds before the case, so above the loaded model; of a
program it is all of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.made_case import FULL, MadeCase, make_case, size_of, write_volumes
from benchmarks.made_engine import CHANNELS, MadeEngine, made_model, write_thin_bundle
from benchmarks.models import REPOSITORY, real_data_folder, real_models
from benchmarks.stage_meter import (
    Cost,
    Round,
    Summary,
    describe,
    held_bytes,
    metered,
    run_program,
    summarise,
)
from benchmarks.whole_path import compare
from worker.adapters.freed_arrays import FreedArrays, give_back_freed
from worker.catalogue import ModelEntry, find_model
from worker.pipeline import segment_case
from worker.ports import Engine
from worker.settings import load_settings

OWN, THIN, ZOO = "demo_brain_tumor", "thin_brats", "brats"
VOLUMES = tuple(f"{name}.nii.gz" for name in CHANNELS)


@dataclass(frozen=True, kw_only=True)
class Table:
    """One printed table."""

    title: str
    rows: tuple[Summary, ...]
    masks_agree: Mapping[str, Any] | None = None

    def text(self) -> str:
        """Write it."""
        told = describe(self.title, self.rows)
        return told if self.masks_agree is None else f"{told}\n  masks: {self.masks_agree}"


class WarmCase:
    """One case, segmented again and again in this process as in the worker's own.

    Parameters
    ----------
    made : MadeCase
    out : Path
        Where the artifacts are written.
    model : ModelEntry
    engine : Engine
        The model is loaded into it, and memory counts from there.
    is_kept : bool
        Whether freed arrays stay for the next case, as where the network runs on a CPU. Until `end`
        that holds for all of this process.
    """

    def __init__(
        self,
        made: MadeCase,
        out: Path,
        model: ModelEntry,
        engine: Engine,
        *,
        is_kept: bool = False,
    ) -> None:
        self._case = made.case(out, model.name)
        self._model, self._engine = model, engine
        self._freed_arrays = FreedArrays() if is_kept else None
        engine.load(model)
        self._base_bytes = held_bytes()

    def run(self) -> Round:
        """Segment it once more."""
        with metered(self._base_bytes) as (meter, rounds):
            segment_case(
                self._case,
                model=self._model,
                engine=self._engine,
                on_progress=lambda _stage, _fraction: None,
                timings=meter,
            )
        if self._freed_arrays:
            self._freed_arrays.after_case(max(meter.peak_bytes.values()))
        return rounds[0]

    def run_after_idle_time(self) -> Round:
        """Segment it once memory was given back, as the worker does after some seconds."""
        give_back_freed()
        return self.run()

    def end(self) -> None:
        """Keep nothing any more."""
        if self._freed_arrays:
            self._freed_arrays.after_shortage()


def stage_table(title: str, rounds: Sequence[Round], *, network: Sequence[str]) -> Table:
    """Put rounds into a table; its last rows are the whole, and the whole without the network."""
    names = list(dict.fromkeys(name for one in rounds for name in one.stages))
    rows = [summarise(name, [one.stages[name] for one in rounds]) for name in names]
    rows.append(summarise("whole case", [one.whole for one in rounds]))
    rows.append(summarise("without the network", [_without(one, network) for one in rounds]))
    return Table(title=title, rows=tuple(rows))


def _without(one: Round, network: Sequence[str]) -> Cost:
    inside = [one.stages[name] for name in network if name in one.stages]
    return Cost(
        wall_s=one.whole.wall_s - sum(cost.wall_s for cost in inside),
        cpu_s=one.whole.cpu_s - sum(cost.cpu_s for cost in inside),
        peak_mb=max(cost.peak_mb for name, cost in one.stages.items() if name not in network),
    )


NETWORK = ("load_model", "infer")


def made_tables(folder: Path, size: tuple[int, int, int, int], rounds: int) -> Iterator[Table]:
    """Measure everything but the network, on one grid and on several."""
    for is_tilted, what in ((False, "all series on one grid"), (True, "further series tilted")):
        made = make_case(folder / f"made-{is_tilted}", size, is_tilted=is_tilted)
        model, engine = made_model(size[3], len(made.regions)), MadeEngine(made.regions)
        case = WarmCase(made, folder / "out", model, engine)
        case.run()
        found = [case.run() for _ in range(rounds)]
        yield stage_table(f"Masks known beforehand, {what}", found, network=NETWORK)


class Bundles:
    """A configuration with the bundles of this benchmark, pinned."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._config = folder / "config.yaml"
        config: dict[str, Any] = yaml.safe_load((REPOSITORY / "config.yaml").read_text("utf-8"))
        models = config["models"]
        models[OWN]["path"] = str(REPOSITORY / models[OWN]["path"])
        models[ZOO] = real_models()[ZOO]
        if THIN in names:
            thin = write_thin_bundle(real_data_folder() / "brats_mri_segmentation", folder / THIN)
            models[THIN] = {**models[ZOO], "path": str(thin), "options": {}}
        config["models"] = {name: models[name] for name in names}
        config["default_model"] = names[0]
        self._config.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
        for name in names:
            command = [sys.executable, "-m", "worker", "models", "add", name]
            run_program([*command, "--config", str(self._config)], cwd=REPOSITORY)

    def find(self, name: str) -> ModelEntry:
        """Give a bundle."""
        return find_model(load_settings(self._config), name)

    def ours(self, made: MadeCase, name: str, out: Path) -> Cost:
        """Run the worker's program."""
        command = [sys.executable, "-m", "worker", "segment", *map(str, made.folders)]
        command += ["--model", name, "--out", str(out), "--config", str(self._config)]
        return run_program(command, cwd=REPOSITORY)


def run_monai(bundle: Path, volumes: Sequence[Path], out: Path) -> Cost:
    """Run `monai.bundle run` on the volumes, as its documentation says.

    By the function behind the command, whose command line needs another package (fire).
    """
    config = bundle / "configs" / "inference.json"
    own = json.loads(config.read_text(encoding="utf-8"))
    settings = {
        "config_file": str(config),
        "meta_file": str(config.with_name("metadata.json")),
        "bundle_root": str(bundle),
        "dataset_dir": str(volumes[0].parent),
        "output_dir": str(out),
        "dataloader#num_workers": 0,
        "test_datalist" if "test_datalist" in own else "data": [{"image": [*map(str, volumes)]}],
    }
    if not (bundle / "models" / "model.pt").exists():
        settings["load_pretrain"] = False
    program = "import json, sys; from monai.bundle import run; run(**json.loads(sys.argv[1]))"
    command = [sys.executable, "-W", "ignore", "-c", program, json.dumps(settings)]
    return run_program(command, cwd=REPOSITORY)


def run_old_way(bundle: Path, case: Path, out: Path) -> Cost:
    """Run the old script on one case; its poll is counted by `benchmarks/throughput.py`."""
    command = [sys.executable, "-m", "benchmarks.old_way", str(case)]
    return run_program([*command, "--bundle", str(bundle), "--out", str(out)], cwd=REPOSITORY)


def warm_tables(
    made: MadeCase, out: Path, model: ModelEntry, engine: Engine, rounds: int
) -> Iterator[Table]:
    """Measure a bundle warm in this process: with what the worker does of freed arrays, and not."""
    plain = WarmCase(made, out, model, engine)
    kept = WarmCase(made, out, model, engine, is_kept=True)
    ways = {
        "nothing kept of the case before": plain.run,
        "in a row": kept.run,
        "after idle": kept.run_after_idle_time,
    }
    for way, run_case in ways.items():
        run_case()
        found = [run_case() for _ in range(rounds)]
        yield stage_table(f"{model.name}, warm, {way}", found, network=NETWORK)
    kept.end()


def bundle_tables(
    folder: Path, made: MadeCase, names: Sequence[str], rounds: int
) -> Iterator[Table]:
    """Measure bundles, warm in this process and as programs."""
    from worker.adapters.engine_monai import MonaiEngine

    bundles = Bundles(folder, names)
    volumes = write_volumes(made, folder / "volumes" / "case", VOLUMES)
    for name in names:
        model, out = bundles.find(name), folder / "results" / name
        yield from warm_tables(made, out / "warm", model, MonaiEngine("cpu"), rounds)
        ours, monai, old = out / "ours", out / "monai", out / "old"
        rows = [
            summarise("this project", [bundles.ours(made, name, ours) for _ in range(rounds)]),
            summarise(
                "monai.bundle run", [run_monai(model.path, volumes, monai) for _ in range(rounds)]
            ),
        ]
        has_weights = (model.path / "models" / "model.pt").exists()
        if has_weights:
            case = made.folders[0].parent
            costs = [run_old_way(model.path, case, old) for _ in range(rounds)]
            rows.append(summarise("the old way", costs))
        yield Table(
            title=f"{name}, programs from start to result",
            rows=tuple(rows),
            # Random weights are other ones in each program.
            masks_agree=_agreement(ours / "mask.nii.gz", monai) if has_weights else None,
        )


def _agreement(ours: Path, monai: Path) -> Mapping[str, Any]:
    (theirs,) = monai.rglob("*.nii.gz")
    return {str(label): figures for label, figures in compare(ours, theirs).items()}


def default_models() -> list[str]:
    """Name the bundles that are measured unless told otherwise."""
    has_zoo = (real_data_folder() / "brats_mri_segmentation").is_dir()
    return [THIN, OWN] if has_zoo else [OWN]


def run(folder: Path, options: argparse.Namespace) -> Iterator[Table]:
    """Measure everything that was asked for."""
    yield from made_tables(folder, options.size, options.rounds)
    if options.stages_only:
        return
    made = make_case(folder / "case", options.size)
    yield from bundle_tables(folder, made, options.models, options.rounds)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stages",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", type=size_of, default=FULL, help="such as 240x240x155x4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--stages-only", action="store_true", help="no bundles, no programs")
    parser.add_argument("--models", nargs="+", default=default_models(), metavar="NAME")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        for table in run(Path(folder), options):
            print(table.text(), end="\n\n", flush=True)
            tables.append(asdict(table))
    if options.json:
        body = {"size": options.size, "tables": tables}
        options.json.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

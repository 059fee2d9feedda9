"""Judge the bundle on phantoms it has not seen: `python -m demo.evaluate`.

Each phantom is scanned as the sample is (four series, four oblique grids), brought onto the main
series' grid, segmented by the bundle as its configuration says, and compared with the truth there.
Exit code 1 when a region's mean Dice is below the limit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from demo.anatomy import SEQUENCES, draw_anatomy
from demo.fields import Affine, FloatArray
from demo.phantom import EDEMA, ENHANCING, NECROSIS, LabelArray
from demo.phantom_dicom import MAIN, PROTOCOLS, acquire, resample_to_main, truth_on_main_grid
from demo.seeds import EVALUATION_SEEDS
from demo.train import BUNDLE

PASSING_DICE = 0.90
# A healthy head must stay healthy; below this a doctor would see specks, not a lesion.
HEALTHY_LIMIT_ML = 0.5

SCORED = {
    "TC": (NECROSIS, ENHANCING),
    "WT": (NECROSIS, EDEMA, ENHANCING),
    "ET": (ENHANCING,),
    "NCR": (NECROSIS,),
    "ED": (EDEMA,),
}


@dataclass(frozen=True, kw_only=True)
class CaseScore:
    """How one phantom went. `dice` is empty for a healthy head."""

    seed: int
    lesions: int
    dice: dict[str, float]
    found_ml: float
    truth_ml: float
    seconds: float


class BundleRunner:
    """The bundle's own preprocessing, network, inferer and postprocessing, without its files."""

    def __init__(self, bundle: Path) -> None:
        parser = ConfigParser()
        parser.read_config(bundle / "configs" / "inference.json")
        parser["bundle_root"] = str(bundle)
        for section, transform in (
            ("preprocessing", "LoadImaged"),
            ("postprocessing", "SaveImaged"),
        ):
            kept = [t for t in parser[section]["transforms"] if t["_target_"] != transform]
            parser[section]["transforms"] = kept
        self._device = parser.get_parsed_content("device")
        self._network = parser.get_parsed_content("network")
        state = torch.load(bundle / "models" / "model.pt", weights_only=True, map_location="cpu")
        self._network.load_state_dict(state)
        self._network.eval()
        self._preprocess = parser.get_parsed_content("preprocessing")
        self._inferer = parser.get_parsed_content("inferer")
        self._postprocess = parser.get_parsed_content("postprocessing")

    def segment(self, channels: FloatArray, affine_ras: Affine) -> LabelArray:
        """Segment (4, I, J, K) channels in the order of `SEQUENCES`; labels on the same grid."""
        affine = torch.from_numpy(affine_ras)
        data = self._preprocess({"image": MetaTensor(torch.from_numpy(channels), affine=affine)})
        with torch.inference_mode():
            logits = self._inferer(data["image"][None].to(self._device), self._network)
        data["pred"] = logits[0].cpu()
        labels: LabelArray = self._postprocess(data)["pred"][0].numpy().astype(np.uint8)
        return labels


def scan_case(seed: int, *, lesions: int | None = None) -> tuple[FloatArray, LabelArray, int]:
    """Scan a phantom.

    Returns
    -------
    channels : (4, I, J, K) float32
        On the main series' grid.
    labels : (I, J, K) uint8
    lesions : int
        How many the head has.
    """
    anatomy = draw_anatomy(seed, lesions=lesions)
    scans = {p.sequence: resample_to_main(acquire(anatomy, p)) for p in PROTOCOLS}
    channels = np.stack([scans[name] for name in SEQUENCES])
    return channels, truth_on_main_grid(anatomy), len(anatomy.lesions)


def dice(found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Dice overlap; 1 when both are empty."""
    total = int(found.sum()) + int(truth.sum())
    return 1.0 if total == 0 else 2 * int((found & truth).sum()) / total


def score_case(runner: BundleRunner, seed: int) -> CaseScore:
    """Scan, segment and score one phantom."""
    channels, truth, lesions = scan_case(seed)
    started = time.monotonic()
    found = runner.segment(channels, MAIN.grid.affine_ras)
    seconds = time.monotonic() - started
    voxel_ml = float(np.prod(MAIN.spacing_mm)) / 1000
    scores = {
        name: round(dice(np.isin(found, values), np.isin(truth, values)), 4)
        for name, values in SCORED.items()
        if truth.any()
    }
    return CaseScore(
        seed=seed,
        lesions=lesions,
        dice=scores,
        found_ml=round(int((found > 0).sum()) * voxel_ml, 2),
        truth_ml=round(int((truth > 0).sum()) * voxel_ml, 2),
        seconds=round(seconds, 2),
    )


def summarise(scores: Sequence[CaseScore]) -> dict[str, object]:
    """Mean and worst Dice over the heads with a tumour, and the worst healthy head."""
    ill = [s for s in scores if s.dice]
    healthy = [s for s in scores if not s.dice]
    mean = {n: round(float(np.mean([s.dice[n] for s in ill])), 4) for n in SCORED} if ill else {}
    worst = {n: min(s.dice[n] for s in ill) for n in SCORED} if ill else {}
    false_ml = max((s.found_ml for s in healthy), default=0.0)
    passed = bool(ill) and min(mean.values()) >= PASSING_DICE and false_ml <= HEALTHY_LIMIT_ML
    return {
        "with_tumour": len(ill),
        "healthy": len(healthy),
        "mean_dice": mean,
        "worst_dice": worst,
        "healthy_worst_ml": false_ml,
        "passing_dice": PASSING_DICE,
        "passed": passed,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table and the summary as JSON."""
    arguments = _parser().parse_args(argv)
    torch.set_num_threads(arguments.threads)
    runner = BundleRunner(arguments.bundle)
    print("   seed lesions " + "".join(f"{name:>8}" for name in SCORED) + "  found/true mL")
    scores = []
    for seed in EVALUATION_SEEDS[: arguments.cases]:
        score = score_case(runner, seed)
        cells = "".join(f"{score.dice[n]:8.3f}" if score.dice else "       -" for n in SCORED)
        print(
            f"{seed:7} {score.lesions:7} {cells}  {score.found_ml:.1f}/{score.truth_ml:.1f}",
            flush=True,
        )
        scores.append(score)
    summary = summarise(scores)
    print(json.dumps(summary, indent=2))
    if arguments.json is not None:
        report = {**summary, "cases": [asdict(s) for s in scores]}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if not summary["passed"]:
        print(f"below the limit: mean Dice {PASSING_DICE} per region", file=sys.stderr)
    return 0 if summary["passed"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo.evaluate", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument(
        "--cases", type=int, default=25, help="how many unseen phantoms, at most 100"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write every case's scores here")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

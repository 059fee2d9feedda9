"""Train the demonstration bundle's network on phantoms: `python -m demo.train`.

Minutes on two CPU cores, less on a GPU. The network is the one that the bundle's own
`configs/inference.json` names; only `models/model.pt` is written.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from demo.cases import TrainingCase, draw_case, region_stack
from demo.seeds import TRAINING_SEEDS, VALIDATION_SEEDS

logger = logging.getLogger(__name__)

BUNDLE = Path(__file__).parents[1] / "models" / "demo_brain_tumor"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and on what to train."""

    steps: int
    cases: int
    patch: int
    batch: int
    learning_rate: float
    seed: int


def build_network(bundle: Path) -> tuple[nn.Module, float]:
    """Build the bundle's network, untrained, and read the spacing it works at, mm."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    network = parser.get_parsed_content("network_def")
    return network, float(parser["spacing_mm"][0])


def draw_cases(seeds: Sequence[int], spacing_mm: float, processes: int) -> list[TrainingCase]:
    """Draw phantoms, several at once."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return pool.map(partial(draw_case, spacing_mm=spacing_mm), seeds, chunksize=2)


def draw_patch(
    case: TrainingCase, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a cube, mostly around a lesion, flip it and vary its intensities."""
    shape = np.array(case.labels.shape)
    lesion = np.argwhere(case.labels[::4, ::4, ::4]) * 4
    aimed = len(lesion) > 0 and rng.random() < 0.7
    middle = rng.choice(lesion) if aimed else (rng.random(3) * shape).astype(int)
    jitter = rng.integers(-size // 4, size // 4 + 1, 3)
    start = np.clip(middle + jitter - size // 2, 0, np.maximum(shape - size, 0))
    box = tuple(slice(int(a), int(a) + size) for a in start)
    pad = [(0, max(0, size - int(n))) for n in shape]
    image = np.pad(case.image[:, *box].astype(np.float32), [(0, 0), *pad])
    target = np.pad(region_stack(case.labels[box]), [(0, 0), *pad])
    flips = tuple(int(a) + 1 for a in np.flatnonzero(rng.random(3) < 0.5))
    image, target = np.flip(image, flips), np.flip(target, flips)
    scale = rng.uniform(0.85, 1.15, (4, 1, 1, 1)).astype(np.float32)
    shift = rng.uniform(-0.15, 0.15, (4, 1, 1, 1)).astype(np.float32)
    return image * scale + shift, target


def region_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of the three regions plus soft Dice of these and of what lies between them."""
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, target)
    chance, truth = with_parts(logits.sigmoid()), with_parts(target)
    axes = (0, 2, 3, 4)
    overlap = 2 * (chance * truth).sum(axes) + 1
    return entropy + (1 - overlap / (chance.sum(axes) + truth.sum(axes) + 1)).mean()


def with_parts(regions: Tensor) -> Tensor:
    """Add necrosis (TC without ET) and edema (WT without TC) to TC, WT and ET.

    Necrosis is the smallest part: judged by the regions alone, a network earns nearly full marks by
    filling the rim, and learns to leave the core out only after thousands of steps.
    """
    tc, wt, et = regions.unbind(1)
    return torch.stack([tc, wt, et, tc * (1 - et), wt * (1 - tc)], 1)


def train(
    network: nn.Module,
    cases: Sequence[TrainingCase],
    plan: Plan,
    device: torch.device,
    on_step: Callable[[int, float], None],
) -> None:
    """Run the optimiser; `network` is changed in place."""
    rng = np.random.default_rng(plan.seed)
    optimiser = torch.optim.AdamW(network.parameters(), plan.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, plan.learning_rate, total_steps=plan.steps, pct_start=0.1
    )
    network.train()
    for step in range(plan.steps):
        picks = [
            draw_patch(cases[int(n)], plan.patch, rng)
            for n in rng.integers(0, len(cases), plan.batch)
        ]
        image, target = (
            torch.from_numpy(np.stack([p[n] for p in picks])).to(device) for n in (0, 1)
        )
        # Twice as fast on a CPU; safe here because the network has no GroupNorm.
        image = image.contiguous(memory_format=torch.channels_last_3d)
        loss = region_loss(network(image), target)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        on_step(step + 1, float(loss.detach()))


def validate(
    network: nn.Module, cases: Iterable[TrainingCase], device: torch.device
) -> list[float]:
    """Mean Dice of TC, WT and ET on the network's own grid, over cases with a tumour."""
    network.eval()
    scores = []
    for case in cases:
        truth = torch.from_numpy(region_stack(case.labels)) > 0
        if not truth.any():
            continue
        # The network halves its grid twice.
        pad = [x for n in reversed(case.labels.shape) for x in (0, -n % 4)]
        image = nn.functional.pad(torch.from_numpy(case.image.astype(np.float32)), pad)
        with torch.inference_mode():
            found = network(image[None].to(device))[0].cpu() > 0
        i, j, k = case.labels.shape
        found = found[:, :i, :j, :k]
        both = (found & truth).sum((1, 2, 3))
        scores.append(2 * both / (found.sum((1, 2, 3)) + truth.sum((1, 2, 3))))
    mean: list[float] = torch.stack(scores).mean(0).tolist()
    return mean


def main(argv: Sequence[str] | None = None) -> int:
    """Train and write `models/model.pt`."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    network, spacing_mm = build_network(arguments.bundle)
    network = network.to(device)
    plan = Plan(
        steps=arguments.steps,
        cases=arguments.cases,
        patch=arguments.patch,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
    )
    started = time.monotonic()
    cases = draw_cases(TRAINING_SEEDS[: plan.cases], spacing_mm, arguments.threads)
    held_out = draw_cases(VALIDATION_SEEDS[:8], spacing_mm, arguments.threads)
    logger.info("%d phantoms drawn in %.0f s", len(cases), time.monotonic() - started)

    recent: list[float] = []

    def report(step: int, loss: float) -> None:
        recent.append(loss)
        if step % 50 == 0:
            seconds = time.monotonic() - started
            logger.info(
                "step %d/%d loss %.4f, %.0f s", step, plan.steps, np.mean(recent[-50:]), seconds
            )
        if step % arguments.validate_every == 0 or step == plan.steps:
            logger.info(
                "validation Dice TC %.3f WT %.3f ET %.3f", *validate(network, held_out, device)
            )
            network.train()

    train(network, cases, plan, device, report)
    _save(network, arguments.bundle / "models" / "model.pt")
    logger.info("trained on %s in %.0f s", device, time.monotonic() - started)
    return 0


def _save(network: nn.Module, path: Path) -> None:
    state = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo.train", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="bundle folder to train")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--cases", type=int, default=100, help="phantoms to train on")
    parser.add_argument("--patch", type=int, default=64, help="edge of a training cube, voxels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads, and drawing processes")
    parser.add_argument("--validate-every", type=int, default=250)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

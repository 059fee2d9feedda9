"""Engines and bundles whose network costs next to nothing, so that the rest of a case is seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.support.imaging_models import ABNORMAL, BRAIN, NEOPLASM
from worker.catalogue import ModelEntry
from worker.core.segments import Labels, SegmentSpec

CHANNELS = ("T1c", "T1", "T2", "FLAIR")
REGION_VALUES = (1, 2, 4)


class MadeEngine:
    """Implements `worker.ports.Engine` by giving masks that are known beforehand.

    Parameters
    ----------
    regions : (N, I, J, K) uint8
        One 0/1 mask for each segment of the model.
    """

    device = "none"

    def __init__(self, regions: npt.NDArray[np.uint8]) -> None:
        self._regions = regions

    def load(self, model: ModelEntry) -> None:
        """Nothing is loaded."""

    def leave_device(self) -> None:
        """Nothing is held."""

    def segment(
        self,
        model: ModelEntry,
        channels: npt.NDArray[np.floating[Any]],  # noqa: ARG002 - the port's
        affine_ras: npt.NDArray[np.floating[Any]],  # noqa: ARG002
        on_progress: Callable[[float], None],
    ) -> Labels:
        """Give the masks."""
        on_progress(1.0)
        values = tuple(spec.label_value for spec in model.segments)
        return Labels(array=self._regions, values=values, is_overlapping=True)


def made_model(channels: int, segments: int) -> ModelEntry:
    """Describe a model of this many channels and segments; it has no files."""
    return ModelEntry(
        name="made",
        path=Path("made"),
        version="1",
        sha256="0" * 64,
        channels=CHANNELS[:channels],
        segments=tuple(
            SegmentSpec(
                label_value=number,
                label=f"Part {number}",
                category=ABNORMAL,
                type=NEOPLASM,
                anatomic_region=BRAIN,
            )
            for number in range(1, segments + 1)
        ),
        format="bundle",
    )


def write_thin_bundle(zoo: Path, folder: Path) -> Path:
    """Copy the zoo's BraTS bundle with one convolution for its network.

    Everything else is the zoo's: loading, normalising, sliding window, postprocessing. The
    convolution calls bright what stands out in FLAIR (oedema), in T1c against T1 (enhancing), and
    their middle (core), so that the masks have the shape of masks.
    """
    import torch

    shutil.copytree(zoo, folder)
    path = folder / "configs" / "inference.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["network_def"] = {
        "_target_": "torch.nn.Conv3d",
        "in_channels": 4,
        "out_channels": 3,
        "kernel_size": 1,
    }
    path.write_text(json.dumps(config, indent=4), encoding="utf-8")
    (folder / "models").mkdir(exist_ok=True)
    weight = torch.tensor([[1.0, -1.0, 0.0, 1.0], [0.0, -0.5, 0.5, 1.0], [2.0, -2.0, 0.0, 0.5]])
    state = {
        "weight": weight.reshape(3, 4, 1, 1, 1),
        "bias": torch.tensor([-2.2, -1.6, -3.0]),
    }
    torch.save(state, folder / "models" / "model.pt")
    return folder


_WAITING = '''"""A network that keeps a device busy and no processor: it waits."""

import time

import torch


class Waiting(torch.nn.Module):
    """Gives what is bright in the first channel, after `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        bright = image[:, :1] > 0.6 * image[:, :1].max()
        return torch.cat([bright] * 3, dim=1).float()
'''


def write_waiting_bundle(own: Path, folder: Path, seconds: float) -> Path:
    """Copy the project's bundle with a network that takes this long and no processor.

    What a GPU is to the rest of a case: it can be seen on any machine whether cases overlap.
    """
    shutil.copytree(own, folder)
    shutil.rmtree(folder / "models")
    (folder / "scripts").mkdir()
    (folder / "scripts" / "__init__.py").touch()
    (folder / "scripts" / "waiting.py").write_text(_WAITING, encoding="utf-8")
    path = folder / "configs" / "inference.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["network_def"] = {"_target_": "scripts.waiting.Waiting", "seconds": seconds}
    config["inferer"] = {"_target_": "SimpleInferer"}
    _keep(config["preprocessing"], "LoadImaged")
    _keep(config["postprocessing"], "AsDiscreted", "Lambdad", "SaveImaged")
    path.write_text(json.dumps(config, indent=4), encoding="utf-8")
    return folder


def _keep(steps: dict[str, Any], *names: str) -> None:
    steps["transforms"] = [step for step in steps["transforms"] if step["_target_"] in names]

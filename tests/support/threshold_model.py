"""A one-channel network that is a threshold, as a file that the worker's command line can run."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import yaml

from tests.support.imaging_models import ABNORMAL, NEOPLASM

REPOSITORY = Path(__file__).resolve().parents[2]


def write_threshold_model(folder: Path, threshold: float) -> Path:
    """Write network, description and configuration; the model, named ``bright``, is pinned.

    Returns
    -------
    Path
        The configuration to give to ``--config``.
    """
    import torch

    conv = torch.nn.Conv3d(1, 2, 1)
    weight = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1)
    conv.load_state_dict({"weight": weight, "bias": torch.tensor([0.0, 0.5 - threshold])})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch would rather export
        torch.jit.trace(conv.eval(), torch.zeros(1, 1, 8, 8, 8)).save(str(folder / "bright.ts"))
    description = {
        "version": "1",
        "channels": ["T1"],
        "output_channels": ["background", "bright"],
        "normalisation": "none",
        "output": "argmax",
    }
    (folder / "bright.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
    segment = {"label": "Bright", "category": vars(ABNORMAL), "type": vars(NEOPLASM)}
    config: dict[str, Any] = {
        "default_model": "bright",
        "models": {"bright": {"path": "bright.ts", "segments": {1: segment}}},
        "inference": {"device": "cpu"},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    run_worker("models", "add", "bright", "--config", str(path)).check_returncode()
    return path


def run_worker(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the worker's program as a person would."""
    return subprocess.run(
        [sys.executable, "-m", "worker", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        timeout=240,
    )

"""Runs a network on more windows at once than the memory that is left holds: started by a test.

    python -m tests.integration.engine.short_of_memory FOLDER

The limit is the process's own (RLIMIT_DATA), so the failure is the allocator's, not a made-up one.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np

from tests.integration.engine.bundles import SLIDING, describe, write_bundle
from worker.adapters import memory
from worker.adapters.engine_monai import MonaiEngine
from worker.model_memory import ModelMemory

LIMIT_BYTES = 250_000_000
NETWORK = {
    "_target_": "SegResNet",
    "init_filters": 8,
    "in_channels": 3,
    "out_channels": 3,
    "blocks_down": [1, 1],
    "blocks_up": [1],
}


def main() -> None:
    """Print what was remembered, and the notes."""
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    inferer = {**SLIDING, "roi_size": [64, 64, 64], "sw_batch_size": 8}
    path = write_bundle(folder / "b", network=NETWORK, has_weights=False, inferer=inferer)
    entry = describe(path, allow_random_weights=True)
    known = ModelMemory(folder)
    engine = MonaiEngine("cpu", known=known, threads=1)
    engine.load(entry)
    image = np.random.default_rng(0).random((3, 80, 80, 80), dtype=np.float32)
    with memory.limited(LIMIT_BYTES):
        labels = engine.segment(entry, image, np.eye(4), lambda _: None)
    remembered = [item.to_json() for item in known.entries()]
    print(json.dumps({"remembered": remembered, "notes": labels.notes}))


if __name__ == "__main__":
    main()

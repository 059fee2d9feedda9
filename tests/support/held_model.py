"""A step of a bundle's preprocessing that keeps a case in the inference process until told."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

HELD, GO_ON = "HELD_MODEL_IS_HELD", "HELD_MODEL_GO_ON"


def hold(image: Any) -> Any:
    """Say that the case is here, and give the image on once a file says so."""
    Path(os.environ[HELD]).touch()
    end = time.monotonic() + 120
    while not Path(os.environ[GO_ON]).exists() and time.monotonic() < end:
        time.sleep(0.05)
    return image

"""The models that the benchmarks and the acceptance tests run, as they would stand in config.yaml.

    python -m benchmarks.models [--device cuda]     measures one of them (`benchmarks/network.py`)

The bundles lie beside the project (`SEGMENTATION_TEST_DATA`, by default `../shared/data`); only the
demonstration model is the project's own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]

_ANATOMY = {"value": "91723000", "scheme": "SCT", "meaning": "Anatomical Structure"}
_ABNORMAL = {
    "value": "49755003",
    "scheme": "SCT",
    "meaning": "Morphologically Abnormal Structure",
}
_BRAIN = {"value": "12738006", "scheme": "SCT", "meaning": "Brain"}
_NEOPLASM = {"value": "108369006", "scheme": "SCT", "meaning": "Neoplasm"}
_EDEMA = {"value": "79654002", "scheme": "SCT", "meaning": "Edema"}


def _tumour(label: str, kind: dict[str, str]) -> dict[str, Any]:
    return {
        "label": label,
        "category": _ABNORMAL,
        "type": kind,
        "anatomic_region": _BRAIN,
    }


def _structure(label: str, value: str, meaning: str) -> dict[str, Any]:
    return {
        "label": label,
        "category": _ANATOMY,
        "type": {"value": value, "scheme": "SCT", "meaning": meaning},
    }


def real_data_folder() -> Path:
    """Return the folder of the real images and bundles, whether it exists or not."""
    configured = os.environ.get("SEGMENTATION_TEST_DATA")
    return Path(configured) if configured else REPOSITORY.parent / "shared" / "data"


def real_models() -> dict[str, dict[str, Any]]:
    """Return the `models` section for the bundles beside the project."""
    root = real_data_folder()
    return {
        "mindgrab": {
            "path": str(root / "mindgrab"),
            "segments": {1: _structure("Brain", "12738006", "Brain")},
        },
        "gwm_light": {
            "path": str(root / "gwm_light"),
            "segments": {
                1: _structure("White matter", "389080008", "White Matter"),
                2: _structure("Grey matter", "389081007", "Gray Matter"),
            },
        },
        "brats": {
            "path": str(root / "brats_mri_segmentation"),
            "options": {"allow_random_weights": True},
            "segments": {
                1: _tumour("Non-enhancing tumour core", _NEOPLASM),
                2: _tumour("Peritumoral oedema", _EDEMA),
                4: _tumour("Enhancing tumour", _NEOPLASM),
            },
        },
    }


if __name__ == "__main__":
    import sys

    from benchmarks.network import main

    sys.exit(main())

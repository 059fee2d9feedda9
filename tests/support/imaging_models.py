"""Model entries and coded segments for tests of everything around a network."""

from __future__ import annotations

from pathlib import Path

from worker.catalogue import ModelEntry
from worker.core.segments import Code, SegmentSpec

ABNORMAL = Code(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure")
NEOPLASM = Code(value="108369006", scheme="SCT", meaning="Neoplasm")
NECROSIS = Code(value="6574001", scheme="SCT", meaning="Necrosis")
BRAIN = Code(value="12738006", scheme="SCT", meaning="Brain")
ANATOMY = Code(value="123037004", scheme="SCT", meaning="Anatomical Structure")
PRIMARY = Code(value="86049000", scheme="SCT", meaning="Primary")

LESION = SegmentSpec(
    label_value=2,
    label="Lesion",
    label_ko="병변",
    category=ABNORMAL,
    type=NEOPLASM,
    type_modifier=PRIMARY,
    anatomic_region=BRAIN,
    color_rgb=(255, 80, 40),
)
CORE = SegmentSpec(
    label_value=5, label="Core", category=ABNORMAL, type=NECROSIS, anatomic_region=BRAIN
)
TISSUE = SegmentSpec(
    label_value=1, label="Brain", category=ANATOMY, type=BRAIN, counts_as_tumor=False
)


def model_entry(
    *segments: SegmentSpec, channels: tuple[str, ...] = ("T1",), intended_use: str = ""
) -> ModelEntry:
    """Describe a model with these segments; it has no files."""
    return ModelEntry(
        name="phantom_model",
        path=Path("phantom_model"),
        version="1.2.3",
        sha256="0123456789abcdef" * 4,
        channels=channels,
        segments=segments or (LESION, CORE),
        format="bundle",
        intended_use=intended_use,
        warnings=(f"Intended use of this model: {intended_use}",) if intended_use else (),
    )

"""docs/images.md tells every code that a series is refused with, and the matrix tries each."""

import re
from pathlib import Path

from tests.support.series_matrix import REFUSED

REPOSITORY = Path(__file__).resolve().parents[3]
READING = ("core/series.py", "adapters/dicom_file.py", "adapters/dicom_pixels.py")
# Raised for a further series beside the main one; tests/integration/imaging/test_pipeline.py.
COMPARING = ("adapters/resample.py",)


def codes(*names: str) -> set[str]:
    texts = [(REPOSITORY / "worker" / name).read_text(encoding="utf-8") for name in names]
    return set(re.findall(r'code="([a-z0-9_]+)"', "".join(texts)))


def test_every_code_is_told_and_every_told_code_exists() -> None:
    text = (REPOSITORY / "docs" / "images.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| (.+) \| (.+) \|$", text, re.M)
    assert {code for code, _, _ in rows} == codes(*READING, *COMPARING)
    assert all(len(remedy.split()) >= 3 for _, _, remedy in rows)


def test_every_code_of_reading_has_a_row_in_the_matrix() -> None:
    assert {row.code for row in REFUSED} == codes(*READING)

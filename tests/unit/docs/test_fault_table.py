"""Every test that docs/faults.md names is there."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]


def test_every_test_that_the_fault_table_names_exists() -> None:
    told = (REPOSITORY / "docs" / "faults.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)", told)
    assert len(named) > 40
    for path, test in named:
        text = (REPOSITORY / path).read_text(encoding="utf-8")
        assert f"def {test}(" in text, f"{path}::{test}"

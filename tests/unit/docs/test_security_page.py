"""docs/security.md claims nothing without a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
NAMED = re.findall(
    r"`((?:tests/)?[\w/]+\.py)(?:::(\w+))?`",
    (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8"),
)


def test_many_claims_are_tested() -> None:
    assert len([name for _, name in NAMED if name]) > 30


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)))
def test_the_test_behind_a_claim_is_there(file: str, name: str) -> None:
    if not (REPOSITORY / file).exists():
        file = f"tests/security/{file}"
    code = (REPOSITORY / file).read_text(encoding="utf-8")
    assert not name or re.search(rf"^(?:async )?def {name}\(", code, re.M)

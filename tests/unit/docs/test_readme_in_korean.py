"""README.ko.md says what README.md says: the same commands, links, pictures and rows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from demo.pictures import MOST_BYTES

ROOT = Path(__file__).resolve().parents[3]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
KOREAN = (ROOT / "README.ko.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
# In the troubles' table the Korean one quotes what the worker says in Korean.
CODE = re.compile(r"`([^`\n]+)`")
PICTURE = re.compile(r"!\[([^\]]+)\]\((docs/images/[^)]+)\)")


def prose(text: str) -> str:
    return FENCED.sub("", text)


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(FENCED, id="commands"),
        pytest.param(re.compile(r"^#+ ", re.MULTILINE), id="headings"),
        pytest.param(re.compile(r"\]\((?!README)([^)]+)\)"), id="links"),
        pytest.param(re.compile(r"^- \*\*", re.MULTILINE), id="readers"),
    ],
)
def test_both_have_the_same(pattern: re.Pattern[str]) -> None:
    assert pattern.findall(KOREAN) == pattern.findall(ENGLISH)


def test_the_tables_have_the_same_rows() -> None:
    def rows(text: str) -> list[list[str]]:
        lines = [line for line in prose(text).splitlines() if line.startswith("|")]
        return [sorted(CODE.findall(line)) for line in lines]

    assert rows(KOREAN) == rows(ENGLISH)


def test_code_in_the_text_is_the_same() -> None:
    assert set(CODE.findall(prose(ENGLISH))) <= set(CODE.findall(prose(KOREAN)))


@pytest.mark.parametrize("text", [ENGLISH, KOREAN], ids=["en", "ko"])
def test_three_small_pictures_are_told_in_words(text: str) -> None:
    found = PICTURE.findall(text)
    assert [path for _, path in found] == [
        f"docs/images/{name}.png" for name in ("study", "mask", "queue")
    ]
    for words, path in found:
        assert len(words) > 40
        assert (ROOT / path).stat().st_size < MOST_BYTES
        with Image.open(ROOT / path) as picture:
            assert min(picture.size) >= 600

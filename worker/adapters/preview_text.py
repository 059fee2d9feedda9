"""Fonts and texts of the preview: Korean where a font for it is installed, else plain ASCII."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import cache

from PIL import ImageFont

from worker.core.segments import SegmentSpec

FONT_PX = 15
# Of the sheet's width, in the wider of the fonts.
_LINE_CHARS = 110

# Fonts with Hangul, by the names under which Linux, Windows and macOS install them.
_KOREAN_FONTS = (
    "NanumGothic.ttf",
    "NotoSansKR-Regular.otf",
    "NotoSansCJK-Regular.ttc",
    "malgun.ttf",
    "AppleSDGothicNeo.ttc",
)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def wrapped(notices: Sequence[str]) -> list[str]:
    """Break notices into lines that fit the sheet."""
    return [line for text in notices for line in textwrap.wrap(drawable(text), _LINE_CHARS)]


def label_of(spec: SegmentSpec) -> str:
    """Give the label, or its code's meaning where no font here can draw it."""
    return spec.label if _can_draw(spec.label) else drawable(spec.type.meaning)


def drawable(text: str) -> str:
    """Give the text, or what is left of it where no font here can draw it."""
    if _can_draw(text):
        return text
    latin = " ".join(text.encode("ascii", errors="ignore").decode().split())
    return latin if any(char.isalpha() for char in latin) else "(see report.json)"


def font_for(text: str, size_px: int = FONT_PX) -> Font:
    """Give a font that has the letters of a text."""
    korean = None if text.isascii() else _korean_font(size_px)
    return korean or ImageFont.load_default(size_px)


def _can_draw(text: str) -> bool:
    return text.isascii() or _korean_font(FONT_PX) is not None


@cache
def _korean_font(size_px: int) -> ImageFont.FreeTypeFont | None:
    for name in _KOREAN_FONTS:
        try:
            return ImageFont.truetype(name, size_px)
        except OSError:
            continue
    return None

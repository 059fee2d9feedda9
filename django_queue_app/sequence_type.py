"""Guess from the header which MR sequence a series is: T1, T1c, T2, FLAIR or DCE.

A guess for sorting a list, never a reason to use a series for a channel: the caller of a request
names the series. Physics (TR, TE, TI) and words are weighed; where they agree, confidence is high.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# In ms. Conventional bounds at 1.5 and 3 T; in between nothing is said.
SHORT_TE_MS, LONG_TE_MS = 30.0, 70.0
SHORT_TR_MS, LONG_TR_MS = 1200.0, 2000.0
FLAIR_TI_MS = 1500.0

_WORDS = (
    ("FLAIR", re.compile(r"flair|dark.?fluid|tirm", re.IGNORECASE)),
    ("DCE", re.compile(r"\bdce\b|dynamic|perfusion|twist|vibrant", re.IGNORECASE)),
    (
        "T1c",
        re.compile(
            r"t1.{0,20}(\+c|\bc\+|ce\b|gd|gad|post|contrast)|(\+c|c\+|gd|gad|post|contrast).{0,20}t1"
            r"|\bt1(c|ce|gd)\b",
            re.IGNORECASE,
        ),
    ),
    ("T1", re.compile(r"t1|mp.?rage|bravo|spgr|tfl3d|\bfspgr\b|mp2rage", re.IGNORECASE)),
    ("T2", re.compile(r"t2", re.IGNORECASE)),
)
_NO_CONTRAST = re.compile(r"^(no|none|without|w/?o|n)?$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class SequenceHints:
    """What a header says of its sequence; times in ms, None where absent."""

    description: str = ""
    contrast_agent: str = ""
    scanning_sequence: tuple[str, ...] = ()
    echo_time_ms: float | None = None
    repetition_time_ms: float | None = None
    inversion_time_ms: float | None = None


def guess_sequence_type(hints: SequenceHints) -> tuple[str | None, float]:
    """Return the sequence type, or None, and a confidence from 0 to 1."""
    by_words, by_physics = _by_words(hints.description), _by_physics(hints)
    has_contrast = not _NO_CONTRAST.match(hints.contrast_agent.strip())
    if by_words == "T1" and has_contrast:
        by_words = "T1c"
    if by_physics == "T1" and has_contrast:
        by_physics = "T1c"
    if by_words is None:
        return by_physics, 0.5 if by_physics else 0.0
    if by_physics is None:
        return by_words, 0.6
    return by_words, 0.9 if _base(by_words) == _base(by_physics) else 0.4


def _base(sequence_type: str) -> str:
    """Contrast can't be seen in TR and TE: T1c and DCE are T1-weighted."""
    return "T1" if sequence_type in {"T1c", "DCE"} else sequence_type


def _by_words(description: str) -> str | None:
    for sequence_type, pattern in _WORDS:
        if pattern.search(description):
            return sequence_type
    return None


def _by_physics(hints: SequenceHints) -> str | None:
    te, tr = hints.echo_time_ms, hints.repetition_time_ms
    if te is None or tr is None or te <= 0 or tr <= 0:
        return None
    if "EP" in hints.scanning_sequence:
        return None  # diffusion, perfusion, functional
    if te >= LONG_TE_MS and (hints.inversion_time_ms or 0) >= FLAIR_TI_MS:
        return "FLAIR"
    if te >= LONG_TE_MS and tr >= LONG_TR_MS:
        return "T2"
    # MPRAGE has a long TR, that of its inversions; a gradient echo with a short TE tells it.
    if te <= SHORT_TE_MS and (tr <= SHORT_TR_MS or "GR" in hints.scanning_sequence):
        return "T1"
    return None

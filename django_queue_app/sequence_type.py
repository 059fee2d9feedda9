"""Guess from the header which MR sequence a series is: T1, T1c, T2, FLAIR, DWI, ADC or DCE.

A guess for sorting a list, never a reason to use a series for a channel: the worker, which sees the
images themselves, works that out by itself. Physics (TR, TE, TI, diffusion) and words are weighed;
where they agree, confidence is high. One table in the tests holds this and the worker's recognition
to the same answers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# In ms. Conventional bounds at 1.5 and 3 T; in between nothing is said.
SHORT_TE_MS, LONG_TE_MS = 30.0, 70.0
SHORT_TR_MS, LONG_TR_MS = 1200.0, 2000.0
# A gradient echo with a longer TE is weighted by T2*, whatever its TR.
LONGEST_T1_GRADIENT_TE_MS = 12.0
# Fluid is nulled from about 1600 ms, fat at 100 to 250 ms; T1-weighted inversions lie between.
FLAIR_TI_MS, STIR_TI_MS = 1500.0, 300.0

_WORDS = (
    ("ADC", re.compile(r"\badc\b|apparent.?diff", re.IGNORECASE)),
    ("DWI", re.compile(r"\bdwi\b|diffusion|\bdti\b|trace", re.IGNORECASE)),
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
_NO_CONTRAST = re.compile(r"^(no|none|without|w/?o|n|0|nil|-)?( contrast)?$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class SequenceHints:
    """What a header says of its sequence; times in ms, None where absent."""

    description: str = ""
    contrast_agent: str = ""
    scanning_sequence: tuple[str, ...] = ()
    echo_time_ms: float | None = None
    repetition_time_ms: float | None = None
    inversion_time_ms: float | None = None
    image_type: tuple[str, ...] = ()
    b_value: float | None = None


def guess_sequence_type(hints: SequenceHints) -> tuple[str | None, float]:
    """Return the sequence type, or None, and a confidence from 0 to 1."""
    by_words, by_physics = _by_words(hints.description), _by_physics(hints)
    has_contrast = not _NO_CONTRAST.match(hints.contrast_agent.strip())
    # A recorded contrast agent beats a description that leaves it out.
    if by_words == "T1" and has_contrast:
        by_words = "T1c"
    if by_physics == "T1" and has_contrast:
        by_physics = "T1c"
    if by_words is None:
        return by_physics, 0.75 if by_physics else 0.0
    if by_physics is None:
        return by_words, 0.6
    if _base(by_words) != _base(by_physics):
        return by_physics, 0.5
    return by_words, 0.9


def _base(sequence_type: str) -> str:
    """Contrast can't be seen in TR and TE: T1c and DCE are T1-weighted."""
    return "T1" if sequence_type in {"T1c", "DCE"} else sequence_type


def _by_words(description: str) -> str | None:
    for sequence_type, pattern in _WORDS:
        if pattern.search(description):
            return sequence_type
    return None


def _by_physics(hints: SequenceHints) -> str | None:
    diffusion = _by_diffusion(hints)
    if diffusion is not None or "EP" in hints.scanning_sequence:
        return diffusion  # without a b-value it may be perfusion or functional
    te, tr = hints.echo_time_ms, hints.repetition_time_ms
    if te is None or tr is None or te <= 0 or tr <= 0:
        return None
    inversion = hints.inversion_time_ms or 0.0
    if te >= LONG_TE_MS and tr >= LONG_TR_MS:
        is_inverted = "IR" in hints.scanning_sequence and inversion == 0.0
        return "FLAIR" if inversion >= FLAIR_TI_MS or is_inverted else "T2"
    # MPRAGE has a long TR, that of its inversions; a gradient echo with a short TE tells it.
    is_gradient = "GR" in hints.scanning_sequence
    is_t1_inversion = STIR_TI_MS < inversion < FLAIR_TI_MS
    is_short = te <= (LONGEST_T1_GRADIENT_TE_MS if is_gradient else SHORT_TE_MS)
    if is_short and (tr <= SHORT_TR_MS or is_gradient or is_t1_inversion):
        return "T1"
    return None


def _by_diffusion(hints: SequenceHints) -> str | None:
    if "ADC" in hints.image_type:
        return "ADC"
    is_diffusion = "DIFFUSION" in hints.image_type or "TRACEW" in hints.image_type
    return "DWI" if hints.b_value or is_diffusion else None

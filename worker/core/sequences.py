"""Works out from header values which MR sequence a series is, and which channel it belongs to.

Physics decides (TE, TR, TI, kind of sequence, contrast agent, b-value); words in descriptions are a
weak hint, since pseudonymised images carry none. Nothing is claimed without a confidence from 0 to
1 and its reasons in words. The site's list has a guess of its own; one table in the tests holds
both to the same answers.

References
----------
DICOM PS3.3 C.8.3.1, C.8.13.5
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Conventional bounds at 1.5 and 3 T, ms; in between nothing is said.
SHORT_TE_MS, LONG_TE_MS = 30.0, 70.0
SHORT_TR_MS, LONG_TR_MS = 1200.0, 2000.0
# A gradient echo with a longer TE is weighted by T2* (susceptibility), whatever its TR.
LONGEST_T1_GRADIENT_TE_MS = 12.0
# Fluid is nulled from about 1600 ms (3D at 1.5 T) to 2800 ms; fat at 100 to 250 ms.
FLAIR_TI_MS, STIR_TI_MS = 1500.0, 300.0

# Below this, what a header says is too weak to act on: neither a warning nor a sorting.
CONFIDENT = 0.6
# Above this, it contradicts a channel even where only the contrast agent is in question.
SURE = 0.8

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
_NO_CONTRAST = re.compile(r"(no|none|without|w/?o|n|0|nil|-)?( contrast)?", re.IGNORECASE)
_T1_WEIGHTED = frozenset({"T1", "T1c", "DCE"})


@dataclass(frozen=True, kw_only=True)
class SequenceHeader:
    """What a series says of its acquisition; None where it says nothing, times in ms.

    `contrast_agent` is None where the header is silent, and empty where it says that there was
    none. `acquired_s`, `content_s` are seconds on one clock of the study.
    """

    description: str = ""
    contrast_agent: str | None = None
    image_type: tuple[str, ...] = ()
    scanning_sequence: tuple[str, ...] = ()
    echo_time_ms: float | None = None
    repetition_time_ms: float | None = None
    inversion_time_ms: float | None = None
    flip_angle_deg: float | None = None
    b_value: float | None = None
    acquired_s: float | None = None
    temporal_position: float | None = None
    trigger_time_ms: float | None = None
    content_s: float | None = None
    series_number: float | None = None


@dataclass(frozen=True, kw_only=True)
class SequenceGuess:
    """Which sequence a series is: T1, T1c, T2, FLAIR, DWI, ADC, DCE, or None."""

    sequence: str | None
    confidence: float
    reasons: tuple[str, ...] = ()

    def in_words(self) -> str:
        """Say it as a part of a sentence."""
        return f"{self.sequence or 'nothing known'} (confidence {self.confidence:.1f}" + (
            f": {', '.join(self.reasons)})" if self.reasons else ")"
        )


def recognise(header: SequenceHeader) -> SequenceGuess:
    """Guess which sequence a series is."""
    physics = _by_physics(header)
    word = _by_words(header)
    if physics.sequence is None:
        if word is None:
            return physics
        reasons = (*physics.reasons, f"described as {word}")
        if word == "T1" and _is_contrast_given(header):
            return SequenceGuess(
                sequence="T1c", confidence=0.6, reasons=(*reasons, "contrast agent")
            )
        return SequenceGuess(sequence=word, confidence=0.6, reasons=reasons)
    if word is None:
        return physics
    return _weighed(physics, word)


def _weighed(physics: SequenceGuess, word: str) -> SequenceGuess:
    """Let words raise or lower what physics says; contrast alone is theirs where none is known."""
    if _base(word) != _base(physics.sequence):
        reasons = (*physics.reasons, f"although described as {word}")
        return SequenceGuess(sequence=physics.sequence, confidence=0.5, reasons=reasons)
    is_told = any("contrast agent" in reason for reason in physics.reasons)
    if is_told and (word, physics.sequence) == ("T1c", "T1"):
        reasons = (*physics.reasons, "although described as T1c")
        return SequenceGuess(sequence="T1", confidence=0.5, reasons=reasons)
    reasons = (*physics.reasons, f"described as {word}")
    sequence = physics.sequence if is_told and word != "DCE" else word
    return SequenceGuess(
        sequence=sequence, confidence=max(physics.confidence, 0.9), reasons=reasons
    )


def _base(sequence: str | None) -> str | None:
    """Contrast can't be seen in TR and TE: T1c and DCE are T1-weighted."""
    return "T1" if sequence in _T1_WEIGHTED else sequence


def _by_words(header: SequenceHeader) -> str | None:
    for sequence, pattern in _WORDS:
        if pattern.search(header.description):
            return sequence
    return None


def _by_physics(header: SequenceHeader) -> SequenceGuess:
    diffusion = _diffusion(header)
    if diffusion is not None:
        return diffusion
    if "EP" in header.scanning_sequence:
        return SequenceGuess(sequence=None, confidence=0.0, reasons=("echo planar",))
    te, tr = header.echo_time_ms, header.repetition_time_ms
    if te is None or tr is None or te <= 0 or tr <= 0:
        return SequenceGuess(sequence=None, confidence=0.0, reasons=("TE or TR unknown",))
    times = (f"TE {te:g} ms", f"TR {tr:g} ms")
    if te >= LONG_TE_MS and tr >= LONG_TR_MS:
        return _long(header, times)
    is_gradient = "GR" in header.scanning_sequence
    is_short = te <= (LONGEST_T1_GRADIENT_TE_MS if is_gradient else SHORT_TE_MS)
    # MPRAGE has a long TR, that of its inversions; a gradient echo with a short TE tells it.
    if is_short and (tr <= SHORT_TR_MS or is_gradient or _is_t1_inversion(header)):
        return _short(header, times)
    return SequenceGuess(sequence=None, confidence=0.0, reasons=times)


def _diffusion(header: SequenceHeader) -> SequenceGuess | None:
    if "ADC" in header.image_type:
        return SequenceGuess(sequence="ADC", confidence=0.95, reasons=("image type ADC",))
    if header.b_value:
        reason = f"b-value {header.b_value:g} s/mm2"
        return SequenceGuess(sequence="DWI", confidence=0.9, reasons=(reason,))
    if "DIFFUSION" in header.image_type or "TRACEW" in header.image_type:
        return SequenceGuess(sequence="DWI", confidence=0.8, reasons=("image type diffusion",))
    return None


def _long(header: SequenceHeader, times: tuple[str, ...]) -> SequenceGuess:
    inversion = header.inversion_time_ms or 0.0
    if inversion >= FLAIR_TI_MS:
        reasons = (f"TI {inversion:g} ms", *times)
        return SequenceGuess(sequence="FLAIR", confidence=0.9, reasons=reasons)
    if "IR" in header.scanning_sequence and inversion == 0.0:
        reasons = ("inversion recovery of unknown TI", *times)
        return SequenceGuess(sequence="FLAIR", confidence=0.5, reasons=reasons)
    confidence = 0.7 if 0.0 < inversion <= STIR_TI_MS else 0.9
    return SequenceGuess(sequence="T2", confidence=confidence, reasons=times)


def _is_t1_inversion(header: SequenceHeader) -> bool:
    """Whether the inversion time is that of a T1-weighted inversion recovery (T1 FLAIR)."""
    inversion = header.inversion_time_ms or 0.0
    return STIR_TI_MS < inversion < FLAIR_TI_MS


def _is_contrast_given(header: SequenceHeader) -> bool:
    agent = header.contrast_agent
    return agent is not None and _NO_CONTRAST.fullmatch(agent.strip()) is None


def _short(header: SequenceHeader, times: tuple[str, ...]) -> SequenceGuess:
    if header.inversion_time_ms:
        times = (*times, f"TI {header.inversion_time_ms:g} ms")
    if header.contrast_agent is None:
        reasons = (*times, "nothing said of contrast")
        return SequenceGuess(sequence="T1", confidence=0.75, reasons=reasons)
    if not _is_contrast_given(header):
        return SequenceGuess(sequence="T1", confidence=0.85, reasons=(*times, "no contrast agent"))
    return SequenceGuess(sequence="T1c", confidence=0.9, reasons=(*times, "contrast agent"))

"""Which series belongs to which channel of a model: checks an order, or finds one. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from worker.core.errors import SeriesInvalid
from worker.core.sequences import (
    CONFIDENT,
    SURE,
    SequenceGuess,
    SequenceHeader,
    recognise,
)

_PLAIN = re.compile(r"[^a-z0-9+]")
_ROLES = (
    ("T1c", re.compile(r"t1w?(\+?c|\+|ce|gd|gad|post|contrast|ca|c\+)+(enhanced|weighted)?")),
    ("T1", re.compile(r"(native|pre)?t1(w|n|pre|native|weighted|mprage)*|mprage")),
    ("FLAIR", re.compile(r"(t2)?flair|t2f|fla?ir")),
    ("T2", re.compile(r"t2(w|weighted|tse)*")),
    ("ADC", re.compile(r"adc(map)?")),
    ("DWI", re.compile(r"dwi|diffusion|(high)?b\d+|trace")),
)
_FIRST_PHASE = re.compile(r"(dce)?(pre|precontrast|native|baseline)(contrast|phase)?")
_PHASE = re.compile(
    r"(dce|dcemri|phase|dcephase|dynamic|post|postcontrast|postcontrastphase|sequence|"
    r"dcemrisequence|dcesequence|time|timepoint|t)(\d{1,2})"
)


@dataclass(frozen=True, kw_only=True)
class ChannelRole:
    """What a channel's name asks for: a sequence, or a phase of a dynamic study (by its rank)."""

    sequence: str | None = None
    phase: int | None = None


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Which series feeds which channel.

    Parameters
    ----------
    indices : tuple of int
        For each channel, the index of its series among those that were given.
    guesses : tuple of SequenceGuess
        For each channel, what its series' header says.
    confidence : float
        Of the whole, 0 to 1; 1 where a person gave the order.
    reasons : tuple of str
        Why, one for each channel; empty where a person gave the order.
    """

    indices: tuple[int, ...]
    guesses: tuple[SequenceGuess, ...]
    confidence: float = 1.0
    reasons: tuple[str, ...] = ()


def role_of(name: str) -> ChannelRole | None:
    """Read a channel's name (``T1c``, ``t2w``, ``DCE phase 2``); None where it says nothing."""
    plain = _PLAIN.sub("", name.lower())
    for sequence, pattern in _ROLES:
        if pattern.fullmatch(plain):
            return ChannelRole(sequence=sequence)
    if _FIRST_PHASE.fullmatch(plain):
        return ChannelRole(phase=-1)
    found = _PHASE.fullmatch(plain)
    return ChannelRole(phase=int(found.group(2))) if found else None


def keep_order(headers: Sequence[SequenceHeader]) -> Assignment:
    """Give the order as it is, with what each header says."""
    return Assignment(
        indices=tuple(range(len(headers))),
        guesses=tuple(recognise(header) for header in headers),
    )


def contradictions(headers: Sequence[SequenceHeader], channels: Sequence[str]) -> tuple[str, ...]:
    """Say where a given order contradicts what the headers say.

    Parameters
    ----------
    headers : sequence of SequenceHeader
        In the order that was given.
    channels : sequence of str
        What the model takes in each place.

    Returns
    -------
    tuple of str
        One sentence for each series that seems out of place; empty where nothing is certain enough.
    """
    roles = [role_of(name) for name in channels]
    sentences = []
    for index, (header, role) in enumerate(zip(headers, roles, strict=True)):
        guess = recognise(header)
        if role is not None and role.phase is None and _contradicts(guess, role):
            sentences.append(
                f"Series {index + 1} looks like {guess.in_words()} but the model takes "
                f"{channels[index]} there: check the order."
            )
    return (*sentences, *_swapped_phases(headers, channels, roles))


def _contradicts(guess: SequenceGuess, role: ChannelRole) -> bool:
    if guess.sequence in (None, role.sequence) or guess.confidence < CONFIDENT:
        return False
    if (guess.sequence, role.sequence) == ("T1", "T1c"):
        # Contrast often goes unrecorded: only a header that says that there was none contradicts.
        return guess.confidence >= SURE and "no contrast agent" in guess.reasons
    # A phase of a dynamic study is T1-weighted, before or after contrast.
    return not (guess.sequence == "DCE" and role.sequence in ("T1", "T1c"))


def _swapped_phases(
    headers: Sequence[SequenceHeader],
    channels: Sequence[str],
    roles: Sequence[ChannelRole | None],
) -> tuple[str, ...]:
    places = _phase_places(roles)
    if len(places) < 2:
        return ()
    clock = _clock_of([headers[place] for place in places])
    if clock is None or clock.confidence < CONFIDENT:
        return ()
    by_time = [places[index] for index in clock.order]
    if by_time == places:
        return ()
    named = ", ".join(
        f"series {given + 1} for {channels[place]}"
        for given, place in zip(by_time, places, strict=True)
    )
    return (
        f"The phases aren't in the order in which they were taken (confidence "
        f"{clock.confidence:.1f}, by {clock.name}): that would be {named}; check the order.",
    )


def _phase_places(roles: Sequence[ChannelRole | None]) -> list[int]:
    """Give the channels that take phases, in the phases' order."""
    phases = [
        (role.phase, place) for place, role in enumerate(roles) if role and role.phase is not None
    ]
    return [place for _, place in sorted(phases)]


def sort_series(headers: Sequence[SequenceHeader], channels: Sequence[str]) -> Assignment:
    """Find the series of each channel.

    Parameters
    ----------
    headers : sequence of SequenceHeader
        As many as there are channels, in any order.
    channels : sequence of str

    Returns
    -------
    Assignment
        With a confidence of at least `CONFIDENT`.

    Raises
    ------
    SeriesInvalid
        `sequence_order_unclear`, with the sentence that says what is unclear.
    """
    guesses = [recognise(header) for header in headers]
    if len(channels) == 1:
        return Assignment(indices=(0,), guesses=(guesses[0],), reasons=("the only series",))
    roles = [role_of(name) for name in channels]
    for name, role in zip(channels, roles, strict=True):
        if role is None:
            raise _unclear(f"the model's channel {name!r} names no sequence that is known")
    found = {
        place: _only_one(role.sequence, channels[place], guesses)
        for place, role in enumerate(roles)
        if role is not None and role.sequence is not None
    }
    confidence = min((guesses[index].confidence for index in found.values()), default=1.0)
    reasons = {place: guesses[index].in_words() for place, index in found.items()}
    places = _phase_places(roles)
    if places:
        rest = [index for index in range(len(headers)) if index not in found.values()]
        clock = _sure_clock([headers[index] for index in rest], len(places))
        confidence = min(confidence, clock.confidence)
        for rank, place in enumerate(places):
            found[place] = rest[clock.order[rank]]
            reasons[place] = f"number {rank + 1} of {len(places)} by {clock.name}"
    return Assignment(
        indices=tuple(found[place] for place in range(len(channels))),
        guesses=tuple(guesses[found[place]] for place in range(len(channels))),
        confidence=round(confidence, 2),
        reasons=tuple(reasons[place] for place in range(len(channels))),
    )


def _only_one(sequence: str, channel: str, guesses: Sequence[SequenceGuess]) -> int:
    fitting = [index for index, guess in enumerate(guesses) if guess.sequence == sequence]
    if len(fitting) != 1:
        seen = "; ".join(
            f"series {index + 1} looks like {guess.in_words()}"
            for index, guess in enumerate(guesses)
        )
        count = "no series" if not fitting else f"{len(fitting)} series"
        raise _unclear(f"{count} can be recognised as {channel} ({seen})")
    if guesses[fitting[0]].confidence < CONFIDENT:
        raise _unclear(
            f"series {fitting[0] + 1} may be {channel}, but only {guesses[fitting[0]].in_words()}"
        )
    return fitting[0]


def _unclear(what: str) -> SeriesInvalid:
    return SeriesInvalid(
        f"The series can't be put in order: {what}. Name them in the order that the model takes "
        "and file the request with the order as given.",
        code="sequence_order_unclear",
    )


@dataclass(frozen=True, kw_only=True)
class _Clock:
    """An order in time: by what, how sure, and the indices from first to last."""

    name: str
    confidence: float
    order: tuple[int, ...]


_CLOCKS: tuple[tuple[str, float, Callable[[SequenceHeader], float | None]], ...] = (
    ("acquisition time", 0.95, lambda header: header.acquired_s),
    ("temporal position", 0.9, lambda header: header.temporal_position),
    ("trigger time", 0.85, lambda header: header.trigger_time_ms),
    ("content time", 0.7, lambda header: header.content_s),
    # Reconstructions are numbered as they are made, which is usually as they were taken.
    ("series number", 0.5, lambda header: header.series_number),
)
_LAST_NUMBER = re.compile(r"(\d{1,2})\D*$")


def _clock_of(headers: Sequence[SequenceHeader]) -> _Clock | None:
    """Order phases by the best clock that tells all of them apart."""
    for name, confidence, read in _CLOCKS:
        values = [value for header in headers if (value := read(header)) is not None]
        if len(values) != len(headers) or len(set(values)) != len(values):
            continue
        order = tuple(sorted(range(len(values)), key=lambda index: values[index]))
        if name == "series number" and _descriptions_agree(headers, order):
            return _Clock(name="series number and description", confidence=0.7, order=order)
        return _Clock(name=name, confidence=confidence, order=order)
    return None


def _descriptions_agree(headers: Sequence[SequenceHeader], order: Sequence[int]) -> bool:
    """Whether descriptions are alike but for a number at their end that grows in this order."""
    found = [_LAST_NUMBER.search(headers[index].description.strip()) for index in order]
    numbers = [int(match.group(1)) for match in found if match]
    return len(numbers) == len(found) and all(one < other for one, other in pairwise(numbers))


def _sure_clock(headers: Sequence[SequenceHeader], count: int) -> _Clock:
    if len(headers) != count:
        raise _unclear(f"{len(headers)} series are left for {count} phases")
    clock = _clock_of(headers)
    if clock is None:
        raise _unclear("no time in the headers tells the phases apart")
    if clock.confidence < CONFIDENT:
        raise _unclear(
            f"only the {clock.name} tells the phases apart (confidence {clock.confidence:.1f})"
        )
    return clock

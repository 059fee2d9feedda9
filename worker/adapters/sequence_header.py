"""Reads from a series' data sets what tells its sequence; what can't be read counts as absent."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import islice

from pydicom.dataset import Dataset

from worker.core.sequences import SequenceHeader

_CLOCK = re.compile(r"(\d{2})(\d{2})?(\d{2})?(\.\d{1,6})?")
_DAY = re.compile(r"\d{8}")
# Places and times differ from slice to slice, physics doesn't: a few frames tell it.
_FRAMES_READ = 8


def read_sequence_header(datasets: Sequence[Dataset]) -> SequenceHeader:
    """Read what the instances of one series say of their acquisition.

    Parameters
    ----------
    datasets : sequence of Dataset
        Classic or Enhanced MR, at least one.
    """
    first = datasets[0]
    groups = [first, *_functional_groups(first)]
    return SequenceHeader(
        description=" ".join(
            _text(first, name) for name in ("SeriesDescription", "ProtocolName", "SequenceName")
        ).strip(),
        contrast_agent=_contrast(first),
        image_type=_words(groups, "ImageType") + _words(groups, "FrameType"),
        scanning_sequence=_scanning_sequence(groups),
        echo_time_ms=_number(groups, "EchoTime", "EffectiveEchoTime"),
        repetition_time_ms=_number(groups, "RepetitionTime"),
        inversion_time_ms=_number(groups, "InversionTime", "InversionTimes"),
        flip_angle_deg=_number(groups, "FlipAngle"),
        b_value=_number(groups, "DiffusionBValue"),
        acquired_s=_earliest(datasets, _acquired),
        temporal_position=_number(groups, "TemporalPositionIdentifier", "TemporalPositionIndex"),
        trigger_time_ms=_earliest(datasets, lambda dataset: _number([dataset], "TriggerTime")),
        content_s=_earliest(datasets, _made),
        series_number=_number(groups, "SeriesNumber"),
    )


def _functional_groups(dataset: Dataset) -> Iterator[Dataset]:
    """Give the macros of an Enhanced instance, one level below its groups, and one below those."""
    shared = list(_items(dataset, "SharedFunctionalGroupsSequence"))
    frames = islice(_items(dataset, "PerFrameFunctionalGroupsSequence"), _FRAMES_READ)
    for group in (*shared, *frames):
        for element in group:
            if element.VR == "SQ":
                yield from element.value or ()


def _items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    return dataset.get(keyword) or ()


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
    except Exception:  # pydicom raises anything on a value that is none of its kind
        return ""
    if value is None:
        return ""
    is_many = hasattr(value, "__iter__") and not isinstance(value, str)
    return "\\".join(map(str, value)) if is_many else str(value)


def _contrast(dataset: Dataset) -> str | None:
    if _items(dataset, "ContrastBolusAgentSequence"):
        return "given"
    return _text(dataset, "ContrastBolusAgent") if "ContrastBolusAgent" in dataset else None


def _words(groups: Sequence[Dataset], keyword: str) -> tuple[str, ...]:
    text = next((found for group in groups if (found := _text(group, keyword))), "")
    return tuple(word.strip().upper() for word in text.split("\\") if word.strip())


def _scanning_sequence(groups: Sequence[Dataset]) -> tuple[str, ...]:
    """Give the classic words, also of an Enhanced instance, which spells them out."""
    classic = _words(groups, "ScanningSequence")
    if classic:
        return classic
    kinds = {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("SE", "GR")}
    found = list(kinds.get("".join(_words(groups, "EchoPulseSequence")), ()))
    if _words(groups, "EchoPlanarPulseSequence") == ("YES",):
        found.append("EP")
    if _words(groups, "InversionRecovery") == ("YES",):
        found.append("IR")
    return tuple(found)


def _number(groups: Sequence[Dataset], *keywords: str) -> float | None:
    for keyword in keywords:
        for group in groups:
            try:
                value = float(_text(group, keyword).split("\\")[0])
            except ValueError:
                continue
            if math.isfinite(value):
                return value
    return None


def _earliest(datasets: Sequence[Dataset], read: Callable[[Dataset], float | None]) -> float | None:
    return min(
        (found for dataset in datasets if (found := read(dataset)) is not None), default=None
    )


def _acquired(dataset: Dataset) -> float | None:
    whole = _text(dataset, "AcquisitionDateTime")
    if len(whole) > len("YYYYMMDD"):
        return _seconds(whole[:8], whole[8:].split("+")[0].split("-")[0])
    day = _text(dataset, "AcquisitionDate") or _text(dataset, "SeriesDate")
    return _seconds(day, _text(dataset, "AcquisitionTime"))


def _made(dataset: Dataset) -> float | None:
    day = _text(dataset, "ContentDate") or _text(dataset, "SeriesDate")
    return _seconds(day, _text(dataset, "ContentTime") or _text(dataset, "SeriesTime"))


def _seconds(day: str, clock: str) -> float | None:
    """Give seconds on a clock that all series of a study share; days of an unknown date are 0."""
    found = _CLOCK.fullmatch(clock.strip())
    if found is None:
        return None
    hours, minutes, seconds, rest = (float(part or 0) for part in found.groups())
    days = 0
    if _DAY.fullmatch(day.strip()):
        try:
            days = datetime.strptime(day.strip(), "%Y%m%d").toordinal()
        except ValueError:
            days = 0
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds + rest

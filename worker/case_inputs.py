"""Brings the series of a case onto one grid, in the order of the model's channels.

Headers first, since they can refuse: each series by itself, then which belongs to which channel.
Then the pixels, the main series' before the others, which may have to be laid over it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from worker.adapters.dicom_read import OpenedSeries, allocate, decode_series, open_series
from worker.adapters.registration import Registration, register
from worker.adapters.resample import check_comparable, resample_image
from worker.adapters.sequence_header import read_sequence_header
from worker.core.channels import Assignment, contradictions, keep_order, sort_series
from worker.core.errors import SeriesInvalid
from worker.core.geometry import Volume
from worker.core.job import ORDER_AUTO, Case, InputUse
from worker.timings import Timings

if TYPE_CHECKING:
    from pathlib import Path

    from worker.catalogue import ModelEntry
    from worker.ports import OnFraction


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedInputs:
    """The inputs of a case on one grid, in channel order.

    Parameters
    ----------
    channels : (C, I, J, K) float32
        On the main series' grid.
    series : tuple of OpenedSeries
        One for each channel.
    uses : tuple of InputUse
        One for each channel.
    main_index : int
        The main series' channel.
    assignment : Assignment
        How the series came to their channels.
    registrations : mapping of int to Registration
        By channel, where a series was moved.
    warnings : tuple of str
    """

    channels: npt.NDArray[np.float32]
    series: tuple[OpenedSeries, ...]
    uses: tuple[InputUse, ...]
    main_index: int
    assignment: Assignment
    registrations: Mapping[int, Registration]
    warnings: tuple[str, ...]

    @property
    def main(self) -> OpenedSeries:
        """The series whose grid the mask lies on."""
        return self.series[self.main_index]

    @property
    def others(self) -> tuple[OpenedSeries, ...]:
        """The further series, each once, also where one feeds several channels."""
        by_uid = {item.series_instance_uid: item for item in self.series}
        by_uid.pop(self.main.series_instance_uid)
        return tuple(by_uid.values())

    @property
    def volume(self) -> Volume:
        """The main series."""
        return Volume(
            array=self.channels[self.main_index],
            geometry=self.main.geometry,
            sources=self.main.sources,
        )


def load_inputs(
    case: Case, model: ModelEntry, timings: Timings, on_progress: OnFraction
) -> LoadedInputs:
    """Read, check, order and align the series of a case.

    Raises
    ------
    SeriesInvalid
        With a code for each thing that can be wrong.
    """
    main_given = _check_channels(case, model)
    count = len(case.series)
    # Headers are a small part of the work, but the part that can refuse: all of them come first.
    opened = []
    with timings.stage("read"):
        for index, item in enumerate(case.series):
            part = _part(on_progress, 0.4 * index / count, 0.4 / count)
            opened.append(_open(item.files, index, count, part))
    _check_one_study(opened, main_given)
    assignment, warnings = _assign(case, model, opened)
    # From here on everything is in channel order.
    loader = _Loader(
        model=model,
        series=tuple(opened[index] for index in assignment.indices),
        given=assignment.indices,
        main_index=assignment.indices.index(main_given),
        timings=timings,
        on_progress=on_progress,
    )
    loader.fill()
    return LoadedInputs(
        channels=loader.channels,
        series=loader.series,
        uses=_uses(case, model, assignment),
        main_index=loader.main_index,
        assignment=assignment,
        registrations=loader.registrations,
        warnings=(*warnings, *loader.warnings),
    )


def _part(on_progress: OnFraction, start: float, share: float) -> OnFraction:
    return lambda fraction: on_progress(min(1.0, start + share * fraction))


def _check_channels(case: Case, model: ModelEntry) -> int:
    """Refuse another number of series than the model has channels; give the main one's index."""
    if len(case.series) != len(model.channels):
        order = "" if case.order == ORDER_AUTO else " in this order"
        raise SeriesInvalid(
            f"The model {model.name} takes {len(model.channels)} series{order}: "
            f"{', '.join(model.channels)}; this request names {len(case.series)}. Choose one "
            "series for each.",
            code="channel_count",
        )
    for index, item in enumerate(case.series):
        if item.series_id == case.main_series_id:
            return index
    raise SeriesInvalid(
        "The main series isn't among the series of this request; file the request again.",
        code="main_series_missing",
    )


def _open(files: Sequence[Path], index: int, count: int, progress: OnFraction) -> OpenedSeries:
    try:
        return open_series(files, on_progress=progress)
    except SeriesInvalid as error:
        if count == 1:
            raise
        raise SeriesInvalid(
            f"Series {index + 1} of {count}: {error.message}", code=error.code
        ) from None


def _check_one_study(opened: Sequence[OpenedSeries], main_index: int) -> None:
    """Refuse series of several studies: a DICOM SEG refers to sources of its own study."""
    study = opened[main_index].headers[0].study_instance_uid
    for index, item in enumerate(opened):
        if item.headers[0].study_instance_uid != study:
            raise SeriesInvalid(
                f"Series {index + 1} belongs to another study than the main series; choose "
                "series of one examination.",
                code="multiple_studies",
            )


def _assign(
    case: Case, model: ModelEntry, opened: Sequence[OpenedSeries]
) -> tuple[Assignment, tuple[str, ...]]:
    """Find or check the series of each channel; give it with what must be said of it."""
    headers = [read_sequence_header(item.datasets) for item in opened]
    if case.order == ORDER_AUTO:
        found = sort_series(headers, model.channels)
        is_moved = found.indices != tuple(range(len(headers)))
        named = ", ".join(
            f"series {index + 1} for {channel}"
            for index, channel in zip(found.indices, model.channels, strict=True)
        )
        sentence = f"The series were sorted by their headers (confidence {found.confidence:.1f}): "
        return found, (f"{sentence}{named}.",) if is_moved else ()
    kept = keep_order(headers)
    if model.sequence_check == "off":
        return kept, ()
    sentences = contradictions(headers, model.channels)
    if sentences and model.sequence_check == "refuse":
        raise SeriesInvalid(" ".join(sentences), code="wrong_sequence_order")
    return kept, sentences


def _uses(case: Case, model: ModelEntry, assignment: Assignment) -> tuple[InputUse, ...]:
    return tuple(
        InputUse(
            channel=channel,
            series_id=case.series[index].series_id,
            sequence=guess.sequence,
            confidence=round(guess.confidence, 2),
        )
        for channel, index, guess in zip(
            model.channels, assignment.indices, assignment.guesses, strict=True
        )
    )


class _Loader:
    """Fills the channels, the main series' first."""

    def __init__(
        self,
        *,
        model: ModelEntry,
        series: tuple[OpenedSeries, ...],
        given: Sequence[int],
        main_index: int,
        timings: Timings,
        on_progress: OnFraction,
    ) -> None:
        self._model = model
        self._timings = timings
        self._on_progress = on_progress
        self._titles = [
            f"Series {place + 1} ({channel})"
            for place, channel in zip(given, model.channels, strict=True)
        ]
        self.series = series
        self.main_index = main_index
        self.registrations: dict[int, Registration] = {}
        self.warnings: list[str] = []
        i, j, k = series[main_index].geometry.shape
        # (C, K, J, I) in memory, so that each frame is written where it stays.
        self.channels = np.empty((len(series), k, j, i), dtype=np.float32).transpose(0, 3, 2, 1)

    def fill(self) -> None:
        """Decode every series into its channel."""
        for index, opened in enumerate(self.series):
            self.warnings += [f"{self._titles[index]}: {note}" for note in opened.notes]
        others = [index for index in range(len(self.series)) if index != self.main_index]
        share = 0.6 / len(self.series)
        for done, index in enumerate([self.main_index, *others]):
            self._fill(index, _part(self._on_progress, 0.4 + done * share, share))

    def _fill(self, index: int, progress: OnFraction) -> None:
        main, opened, name = self.series[self.main_index], self.series[index], self._titles[index]
        is_registered = self._needs_registration(index)
        if opened.geometry.is_same_grid(main.geometry) and not is_registered:
            with self._timings.stage("decode"):
                decode_series(opened, out=self.channels[index], on_progress=progress)
            return
        if not is_registered:
            check_comparable(opened.geometry, main.geometry, name=name)
        with self._timings.stage("decode"):
            volume = decode_series(
                opened, out=allocate(opened.geometry.shape), on_progress=progress
            )
        if is_registered:
            volume = self._registered(index, volume)
        else:
            self.warnings.append(
                f"{name} lies on another grid and was resampled to the main series."
            )
        with self._timings.stage("resample"):
            resample_image(volume, main.geometry, out=self.channels[index])

    def _needs_registration(self, index: int) -> bool:
        if index == self.main_index or self._model.registration == "off":
            return False
        main, opened = self.series[self.main_index], self.series[index]
        if opened.series_instance_uid == main.series_instance_uid:
            return False
        is_foreign = not opened.geometry.shares_frame_of_reference(main.geometry)
        return is_foreign or self._model.registration == "always"

    def _registered(self, index: int, volume: Volume) -> Volume:
        main, name = self.series[self.main_index], self._titles[index]
        fixed = Volume(
            array=self.channels[self.main_index], geometry=main.geometry, sources=main.sources
        )
        with self._timings.stage("register"):
            found = register(volume, fixed, name=name)
        self.registrations[index] = found
        self.warnings.append(
            f"{name} was registered to the main series: turned by {found.rotation_deg:.1f} "
            f"degrees and moved by {found.shift_mm:.1f} mm; check that the two match."
        )
        moved = found.moved(volume.geometry, main.geometry.frame_of_reference_uid)
        return Volume(array=volume.array, geometry=moved, sources=volume.sources)

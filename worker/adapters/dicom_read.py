"""Reads a DICOM series: headers first, checked strictly, then the pixels into one array.

Each file is opened once, and its raw pixels are let go as soon as they are decoded.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from worker.adapters import memory
from worker.adapters.dicom_file import MAX_SERIES_BYTES, Budget, Instance, open_file
from worker.adapters.dicom_pixels import iter_frames, padding_mask
from worker.adapters.dicom_quiet import without_quotes
from worker.adapters.dicom_slices import name_of
from worker.core.geometry import Geometry, SourceInstance, Volume
from worker.core.series import SliceHeader, order_slices

OnFraction = Callable[[float], None]

# What reading may take beyond what the process has: twice the files of the largest series. A small
# file can hold millions of empty elements, each a Python object of a hundred times its size.
READ_MEMORY_BYTES = 2 * MAX_SERIES_BYTES


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceSource:
    """Where slice k comes from: which dataset, and which of its frames (from 0)."""

    dataset: int
    frame: int


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedSeries:
    """A series whose headers were checked and whose pixels aren't decoded yet.

    Parameters
    ----------
    datasets : tuple of Dataset
        One for each instance, in the order in which slice order first meets them.
    slices : tuple of SliceSource
        One for each slice, in slice order.
    geometry : Geometry
    headers : tuple of SliceHeader
        One for each slice, in slice order.
    notes : tuple of str
        What was left out, in plain words.
    content_sha256 : str
        Over what a mask depends on: pixels, places and rescale of every slice. Instances that
        reuse a UID for other pixels differ in it.
    """

    datasets: tuple[Dataset, ...]
    slices: tuple[SliceSource, ...]
    geometry: Geometry
    headers: tuple[SliceHeader, ...]
    notes: tuple[str, ...]
    content_sha256: str

    @property
    def series_instance_uid(self) -> str:
        """The one series that all instances belong to."""
        return self.headers[0].series_instance_uid

    @cached_property
    def sources(self) -> tuple[SourceInstance, ...]:
        """The instance and frame of each slice."""
        return tuple(
            SourceInstance(
                sop_class_uid=str(self.datasets[source.dataset].SOPClassUID),
                sop_instance_uid=header.sop_instance_uid,
                frame_number=header.frame_number,
            )
            for source, header in zip(self.slices, self.headers, strict=True)
        )


def list_files(folder: Path) -> tuple[Path, ...]:
    """Give the regular files below a folder, sorted; links are not followed."""
    return tuple(sorted(path for path in folder.rglob("*") if path.is_file()))


def read_series(files: Sequence[Path]) -> Volume:
    """Read the files of one series, in any order, as one volume (`open_series`, then decode)."""
    return decode_series(open_series(files))


def open_series(files: Sequence[Path], *, on_progress: OnFraction | None = None) -> OpenedSeries:
    """Read and check the headers of the files of one series, in any order.

    Raises
    ------
    SeriesInvalid
        With a code for each thing that can be wrong.
    """
    notes: list[str] = []
    with memory.limited(READ_MEMORY_BYTES), memory.collector_paused(), without_quotes():
        instances = _without_copies(_open_files(files, notes, on_progress), notes)
        return _in_order(instances, tuple(_counted(notes)))


def _open_files(
    files: Sequence[Path], notes: list[str], on_progress: OnFraction | None
) -> list[Instance]:
    instances: list[Instance] = []
    budget = Budget()
    for number, path in enumerate(files, start=1):
        instance = open_file(path, f"file {number} of {len(files)} ({path.name})", notes, budget)
        if instance is not None:
            instances.append(instance)
        if on_progress is not None:
            on_progress(number / len(files))
    return instances


def decode_series(
    opened: OpenedSeries,
    *,
    out: npt.NDArray[np.float32] | None = None,
    on_progress: OnFraction | None = None,
) -> Volume:
    """Decode the pixels of an opened series and rescale them; the raw pixels are let go.

    Parameters
    ----------
    opened : OpenedSeries
        Its datasets lose their Pixel Data here, so that two copies are never held.
    out : (I, J, K) float32, optional
        Where to write; a view on (K, J, I) memory is fastest. A new array by default.

    Returns
    -------
    Volume
        Its array is `out`.
    """
    array = allocate(opened.geometry.shape) if out is None else out
    planes = array.transpose(2, 1, 0)  # (slice, row, column), as frames lie in files
    slice_of = {(source.dataset, source.frame): k for k, source in enumerate(opened.slices)}
    done = 0
    with memory.limited(READ_MEMORY_BYTES), without_quotes():
        for index, dataset in enumerate(opened.datasets):
            for frame, stored in enumerate(iter_frames(dataset, name_of(dataset))):
                k = slice_of[index, frame]
                _rescale_into(planes[k], stored, opened.headers[k])
                if (padding := padding_mask(stored, dataset)) is not None:
                    planes[k][padding] = 0.0  # the background of MR
                done += 1
                if on_progress is not None:
                    on_progress(done / len(slice_of))
            del dataset.PixelData
    return Volume(array=array, geometry=opened.geometry, sources=opened.sources)


def allocate(shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """Set aside an (I, J, K) float32 array whose slices are contiguous in memory."""
    i, j, k = shape
    return np.empty((k, j, i), dtype=np.float32).transpose(2, 1, 0)


def _rescale_into(
    plane: npt.NDArray[np.float32], stored: npt.NDArray[np.integer[Any]], header: SliceHeader
) -> None:
    plane[...] = stored
    if header.slope != 1.0:
        plane *= np.float32(header.slope)
    if header.intercept != 0.0:
        plane += np.float32(header.intercept)


def _without_copies(instances: Sequence[Instance], notes: list[str]) -> list[Instance]:
    """Drop files that repeat another byte by byte.

    Others with the same UID stay, and `order_slices` refuses them.
    """
    repeated = {
        uid
        for uid, count in Counter(item.sop_instance_uid for item in instances).items()
        if count > 1
    }
    kept: list[Instance] = []
    seen: set[bytes] = set()
    for instance in instances:
        if instance.sop_instance_uid in repeated:
            digest = hashlib.sha256(instance.path.read_bytes()).digest()
            if digest in seen:
                notes.append("a copy of another file")
                continue
            seen.add(digest)
        kept.append(instance)
    return kept


def _counted(notes: Sequence[str]) -> Iterator[str]:
    for note, count in Counter(notes).items():
        files = "1 file was" if count == 1 else f"{count} files were"
        yield f"{files} left out of the series: {note}."


def _in_order(instances: Sequence[Instance], notes: tuple[str, ...]) -> OpenedSeries:
    headers = [header for instance in instances for header in instance.headers]
    places = [
        (index, frame)
        for index, instance in enumerate(instances)
        for frame in range(len(instance.headers))
    ]
    order = order_slices(headers)
    # Renumber the instances in slice order, which is the order that a mask's references follow.
    new_index: dict[int, int] = {}
    slices = []
    for index in order.indices:
        old, frame = places[index]
        slices.append(SliceSource(dataset=new_index.setdefault(old, len(new_index)), frame=frame))
    return OpenedSeries(
        datasets=tuple(instances[old].dataset for old in new_index),
        slices=tuple(slices),
        geometry=order.geometry,
        headers=tuple(headers[index] for index in order.indices),
        notes=notes,
        content_sha256=_content_digest(
            [headers[index] for index in order.indices], [instances[old] for old in new_index]
        ),
    )


def _content_digest(headers: Sequence[SliceHeader], instances: Sequence[Instance]) -> str:
    parts = [
        repr((item.position, item.orientation, item.pixel_spacing, item.slope, item.intercept))
        for item in headers
    ]
    parts += [instance.pixel_sha256 for instance in instances]
    return hashlib.sha256("\n".join(parts).encode("utf-8")).hexdigest()

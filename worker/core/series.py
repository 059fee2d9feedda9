"""Checks that a series is one regular volume, and puts its slices in order.

Pure: header values come in, the order and the grid come out, or `SeriesInvalid` names what is
wrong, with which instance, and what to do. Nothing is guessed: a value that is missing is refused,
and the order is that of the positions along the normal, never of names or instance numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from worker.core.errors import SeriesInvalid
from worker.core.geometry import Geometry, normal_of

# Direction cosines compare equal, and count as perpendicular and of unit length, within this.
# Cosines written with four decimals are wrong by up to 1e-4; 1e-3 is 0.06 degrees, or 0.25 mm over
# a field of view of 250 mm. Scanners set angles in steps of 0.1 degrees (1.7e-3) or more.
DIRECTION_TOLERANCE = 1e-3

# A slice may lie this far from its place on the even grid: coordinates written with two decimals
# are off by 0.005 mm, those that went through float32 by 3e-5 mm (the re-wrapped I-SPY2 series).
POSITION_TOLERANCE_MM = 0.01

# ... or this share of the distance between slices, whichever is more. Below what a mask can show.
POSITION_TOLERANCE_STEPS = 0.02

# A gap counts as missing slices, rather than as uneven spacing, when it is a whole multiple of the
# smallest distance within this share of it.
GAP_MULTIPLE_TOLERANCE = 0.05

# In-plane spacings of one series compare equal within this share (six written digits).
SPACING_TOLERANCE = 1e-4

# The largest series we hold: 2**29 voxels are 2 GiB as float32, 40 times a whole-head scan at
# 0.8 mm. Checked before anything is decoded, since headers can claim any size.
MAX_VOXELS = 2**29
MAX_ROWS_OR_COLUMNS = 4096

# One slice has no distance to the next, so it is no volume.
MIN_SLICES = 2
# Times any 32-bit pixel it is still a number in float32.
_LARGEST_RESCALE = 1e28


@dataclass(frozen=True, kw_only=True)
class SliceHeader:
    """What one slice (a classic instance, or one frame of a multi-frame one) says of itself.

    Values that are missing or can't be read as numbers are None. Orientation and position are in
    LPS, mm; `pixel_spacing` is (between rows, between columns), as DICOM writes it.
    """

    name: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    frame_of_reference_uid: str
    rows: int
    columns: int
    pixel_format: Hashable
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    frame_number: int | None = None
    slope: float | None = 1.0
    intercept: float | None = 0.0
    # Only compared, and kept out of every message.
    patient_id: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceOrder:
    """The order of a series' slices along the normal, and the grid that they make.

    Parameters
    ----------
    indices : tuple of int
        For each slice k, its index among the headers that were given.
    geometry : Geometry
    """

    indices: tuple[int, ...]
    geometry: Geometry


def order_slices(headers: Sequence[SliceHeader]) -> SliceOrder:
    """Check that the headers describe one regular grid of slices, and order them.

    Parameters
    ----------
    headers : sequence of SliceHeader
        In any order.

    Returns
    -------
    SliceOrder
        Slices ascending along the normal (row direction x column direction), so that the axes
        (column, row, slice) are right-handed in LPS.

    Raises
    ------
    SeriesInvalid
        With a code for each thing that can be wrong.

    References
    ----------
    DICOM PS3.3 C.7.6.2.1.1
    """
    if not headers:
        raise SeriesInvalid(
            "The series holds no MR image; choose a series of MR images.", code="not_mr"
        )
    _check_one_series(headers)
    _check_each(headers)
    _check_size(headers)
    row, column = _common_orientation(headers)
    _check_same_spacing(headers)
    return _order_along_normal(headers, row, column)


def _check_one_series(headers: Sequence[SliceHeader]) -> None:
    _check_alike(
        headers,
        lambda header: (header.study_instance_uid, header.series_instance_uid),
        code="multiple_series",
        sentence="{one} and {other} belong to different series; send each series by itself.",
    )
    _check_alike(
        headers,
        lambda header: header.patient_id,
        code="mixed_patients",
        sentence="{one} and {other} carry different patient IDs; find out whose images these are, "
        "and send the images of one patient.",
    )
    seen: dict[tuple[str, int | None], SliceHeader] = {}
    for header in headers:
        # Frames of one multi-frame instance share its UID rightly.
        first = seen.setdefault((header.sop_instance_uid, header.frame_number), header)
        if first is not header:
            raise SeriesInvalid(
                f"{_capital(header.name)} exists twice with different content; export the series "
                "again from the PACS.",
                code="duplicate_sop_uid",
            )
    _check_alike(
        headers,
        lambda header: header.frame_of_reference_uid,
        code="mixed_frame_of_reference",
        sentence="{one} and {other} have different frames of reference, so their positions don't "
        "compare; send one acquisition per series.",
    )
    _check_alike(
        headers,
        lambda header: (header.rows, header.columns),
        code="mixed_matrix",
        sentence="{one} and {other} have different numbers of rows or columns; leave out the "
        "images that don't belong to the volume.",
    )
    _check_alike(
        headers,
        lambda header: header.pixel_format,
        code="mixed_pixel_format",
        sentence="{one} and {other} store their pixels differently (bits or sign); export the "
        "series again from the scanner.",
    )


def _check_alike(
    headers: Sequence[SliceHeader],
    key: Callable[[SliceHeader], Hashable],
    *,
    code: str,
    sentence: str,
) -> None:
    """Refuse a series whose slices differ in `key`; names a slice of the rarest kind."""
    counts = Counter(key(header) for header in headers)
    if len(counts) <= 1:
        return
    usual, rare = counts.most_common()[0][0], counts.most_common()[-1][0]
    one = next(header for header in headers if key(header) == usual)
    other = next(header for header in headers if key(header) == rare)
    raise SeriesInvalid(_capital(sentence.format(one=one.name, other=other.name)), code=code)


def _check_each(headers: Sequence[SliceHeader]) -> None:
    for header in headers:
        _check_geometry_present(header)
        _check_spacing(header)
        _check_rescale(header)


def _check_geometry_present(header: SliceHeader) -> None:
    for what, values, count in (
        ("Image Position (Patient)", header.position, 3),
        ("Image Orientation (Patient)", header.orientation, 6),
    ):
        if values is None or len(values) != count or not np.isfinite(values).all():
            raise SeriesInvalid(
                f"{_capital(header.name)} has no usable {what}, so its place in the patient is "
                "unknown; send the original images of the scanner.",
                code="missing_geometry",
            )
    if not header.frame_of_reference_uid:
        raise SeriesInvalid(
            f"{_capital(header.name)} names no Frame of Reference, so its coordinates can't be "
            "compared; send the original images of the scanner.",
            code="missing_geometry",
        )


def _check_spacing(header: SliceHeader) -> None:
    values = header.pixel_spacing
    if values is None or len(values) != 2 or not np.isfinite(values).all() or min(values) <= 0:
        raise SeriesInvalid(
            f"{_capital(header.name)} has no usable Pixel Spacing, so sizes are unknown; send the "
            "original images of the scanner.",
            code="bad_spacing",
        )


def _check_same_spacing(headers: Sequence[SliceHeader]) -> None:
    spacings = np.array([header.pixel_spacing for header in headers], dtype=np.float64)
    apart = np.abs(spacings / np.median(spacings, axis=0) - 1).max(axis=1)
    if apart.max() > SPACING_TOLERANCE:
        raise SeriesInvalid(
            f"{_capital(headers[int(apart.argmax())].name)} has another Pixel Spacing than the "
            "other slices; send slices of one size as a series.",
            code="mixed_spacing",
        )


def _check_rescale(header: SliceHeader) -> None:
    slope, intercept = header.slope, header.intercept
    if not slope or intercept is None or not np.isfinite([slope, intercept]).all():
        raise SeriesInvalid(
            f"{_capital(header.name)} has a Rescale Slope or Intercept that is no usable number; "
            "send the original images of the scanner.",
            code="bad_rescale",
        )
    if max(abs(slope), abs(intercept)) > _LARGEST_RESCALE:
        raise SeriesInvalid(
            f"{_capital(header.name)} has a Rescale Slope or Intercept that makes its values "
            "infinite; send the original images of the scanner.",
            code="not_finite",
        )


def _check_size(headers: Sequence[SliceHeader]) -> None:
    first = headers[0]
    check_matrix(first.name, first.rows, first.columns, frames=len(headers))
    if len(headers) < MIN_SLICES:
        raise SeriesInvalid(
            f"The series has only one slice, {first.name}; choose a series that covers a volume.",
            code="too_few_slices",
        )


def check_matrix(name: str, rows: int, columns: int, *, frames: int) -> None:
    """Refuse a size that no MR series has, before memory is set aside for it.

    Raises
    ------
    SeriesInvalid
        `too_large`, or `no_pixel_data` for an image of no size.
    """
    if rows < 1 or columns < 1 or frames < 1:
        raise SeriesInvalid(
            f"{_capital(name)} says that it has {rows} rows, {columns} columns and {frames} "
            "frames, so it holds no picture; leave it out or export it again.",
            code="no_pixel_data",
        )
    if max(rows, columns) > MAX_ROWS_OR_COLUMNS or rows * columns * frames > MAX_VOXELS:
        raise SeriesInvalid(
            f"{_capital(name)} claims {columns} x {rows} pixels in {frames} slices, more than the "
            f"{MAX_VOXELS:,} voxels that are accepted; check the file, or crop the series.",
            code="too_large",
        )


def _common_orientation(
    headers: Sequence[SliceHeader],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Give the row and the column direction of all slices, made exactly perpendicular units."""
    orientations = np.array([header.orientation for header in headers], dtype=np.float64)
    rows, columns = orientations[:, :3], orientations[:, 3:]
    off_unit = np.abs(np.linalg.norm([rows, columns], axis=2) - 1).max(axis=0)
    off_square = np.abs((rows * columns).sum(axis=1))
    for index in np.flatnonzero(np.maximum(off_unit, off_square) > DIRECTION_TOLERANCE).tolist():
        raise SeriesInvalid(
            f"{_capital(headers[index].name)} has an Image Orientation (Patient) whose directions "
            "aren't perpendicular unit vectors; send the original images of the scanner.",
            code="bad_orientation",
        )
    usual = np.median(orientations, axis=0)
    apart = np.abs(orientations - usual).max(axis=1)
    if apart.max() > DIRECTION_TOLERANCE:
        other = headers[int(apart.argmax())].name
        raise SeriesInvalid(
            f"{_capital(other)} is tilted against the other slices (a localizer, perhaps); leave "
            "it out and send the parallel slices as one series.",
            code="mixed_orientation",
        )
    mean = orientations.mean(axis=0)
    row = mean[:3] / np.linalg.norm(mean[:3])
    column = mean[3:] - row * (row @ mean[3:])
    return row, column / np.linalg.norm(column)


def _order_along_normal(
    headers: Sequence[SliceHeader],
    row: npt.NDArray[np.float64],
    column: npt.NDArray[np.float64],
) -> SliceOrder:
    normal = normal_of(row, column)
    positions = np.array([header.position for header in headers], dtype=np.float64)
    order = np.argsort(positions @ normal, kind="stable")
    ordered = [headers[index] for index in order]
    positions = positions[order]
    along = positions @ normal
    _check_duplicates(ordered, along)
    step = (along[-1] - along[0]) / (len(ordered) - 1)
    _check_even(ordered, along, step)
    _check_straight(ordered, positions, normal, step)
    first = ordered[0]
    row_spacing, column_spacing = first.pixel_spacing or (0.0, 0.0)
    geometry = Geometry.from_axes(
        shape=(first.columns, first.rows, len(ordered)),
        origin_mm=positions[0],
        directions=np.stack([row, column, normal], axis=1),
        # Columns are spaced by the second value of Pixel Spacing (PS3.3 10.7.1.3).
        spacing_mm=np.array([column_spacing, row_spacing, step]),
        frame_of_reference_uid=first.frame_of_reference_uid,
    )
    return SliceOrder(indices=tuple(int(index) for index in order), geometry=geometry)


def _check_duplicates(ordered: Sequence[SliceHeader], along: npt.NDArray[np.float64]) -> None:
    same = np.flatnonzero(np.diff(along) < POSITION_TOLERANCE_MM)
    if not same.size:
        return
    one, other = ordered[same[0]].name, ordered[same[0] + 1].name
    places = len(ordered) - same.size
    raise SeriesInvalid(
        f"{_capital(one)} and {other} lie at the same position ({len(ordered)} images at "
        f"{places} positions: several time points, echoes or b-values?); send one volume per "
        "series.",
        code="duplicate_positions",
    )


def _check_even(
    ordered: Sequence[SliceHeader], along: npt.NDArray[np.float64], step: float
) -> None:
    expected = along[0] + step * np.arange(len(ordered))
    if np.abs(along - expected).max() <= _tolerance_mm(step):
        return
    gaps = np.diff(along)
    smallest = float(gaps.min())
    multiples = np.rint(gaps / smallest)
    if np.abs(gaps / smallest - multiples).max() <= GAP_MULTIPLE_TOLERANCE and multiples.max() > 1:
        where, count = int(multiples.argmax()), int((multiples - 1).sum())
        missing = "1 slice is missing," if count == 1 else f"{count} slices are missing, first"
        raise SeriesInvalid(
            f"{missing} between {ordered[where].name} and {ordered[where + 1].name} "
            f"({gaps[where]:.2f} mm apart, the others {smallest:.2f} mm); send the whole "
            "series again.",
            code="missing_slices",
        )
    where = int(np.abs(gaps - np.median(gaps)).argmax())
    raise SeriesInvalid(
        f"The distance between slices varies from {smallest:.2f} to {gaps.max():.2f} mm, as "
        f"between {ordered[where].name} and {ordered[where + 1].name}; send a series with even "
        "spacing.",
        code="irregular_spacing",
    )


def _check_straight(
    ordered: Sequence[SliceHeader],
    positions: npt.NDArray[np.float64],
    normal: npt.NDArray[np.float64],
    step: float,
) -> None:
    """Refuse slices that slide sideways: each must lie straight above the first."""
    offsets = positions - positions[0]
    sideways = np.linalg.norm(offsets - np.outer(offsets @ normal, normal), axis=1)
    # A cosine written with few digits tilts the normal, which grows with the distance.
    allowed = _tolerance_mm(step) + DIRECTION_TOLERANCE * np.abs(offsets @ normal)
    worst = int((sideways - allowed).argmax())
    if sideways[worst] > allowed[worst]:
        raise SeriesInvalid(
            f"{_capital(ordered[worst].name)} is shifted sideways by {sideways[worst]:.2f} mm "
            "against the first slice, so the slices make no box (gantry tilt?); send a series "
            "without shear.",
            code="sheared",
        )


def _tolerance_mm(step: float) -> float:
    return max(POSITION_TOLERANCE_MM, POSITION_TOLERANCE_STEPS * step)


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]

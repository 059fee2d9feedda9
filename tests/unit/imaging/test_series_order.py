import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.dicom_phantoms import AXIAL, GRIDS, OBLIQUE, Grid, rotated
from worker.core.errors import SeriesInvalid
from worker.core.series import MAX_VOXELS, SliceHeader, order_slices

Headers = list[SliceHeader]


def headers(grid: Grid = OBLIQUE) -> Headers:
    return [
        SliceHeader(
            name=f"instance number {k + 1}",
            sop_instance_uid=f"1.2.{k}",
            series_instance_uid="1.3",
            study_instance_uid="1.4",
            frame_of_reference_uid=grid.frame_of_reference_uid,
            rows=grid.shape[1],
            columns=grid.shape[0],
            pixel_format=(16, 16, 15, 0),
            orientation=(*grid.row, *grid.column),
            position=tuple(grid.world(0, 0, k).tolist()),
            pixel_spacing=(grid.spacing_mm[1], grid.spacing_mm[0]),
        )
        for k in range(grid.shape[2])
    ]


def moved(header: SliceHeader, offset: Any) -> SliceHeader:
    return replace(header, position=tuple((np.array(header.position) + offset).tolist()))


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("order", ["ascending", "reversed", "shuffled"])
def test_slices_are_ordered_along_the_normal(name: str, order: str) -> None:
    grid = GRIDS[name]
    given_headers = headers(grid)
    if order == "reversed":
        given_headers.reverse()
    elif order == "shuffled":
        random.Random(3).shuffle(given_headers)
    ordered = order_slices(given_headers)
    names = [given_headers[index].name for index in ordered.indices]
    assert names == [header.name for header in headers(grid)]
    np.testing.assert_allclose(ordered.geometry.to_lps([2, 3, 4]), grid.world(2, 3, 4), atol=1e-6)
    assert ordered.geometry.shape == grid.shape


@settings(max_examples=60, deadline=None)
@given(
    x=st.floats(-180, 180),
    y=st.floats(-90, 90),
    z=st.floats(-180, 180),
    seed=st.integers(0, 1000),
    digits=st.integers(4, 9),
)
def test_any_rotation_and_file_order_gives_the_true_grid(
    x: float, y: float, z: float, seed: int, digits: int
) -> None:
    grid = rotated(AXIAL, x=x, y=y, z=z)
    given_headers = [
        replace(
            header,
            orientation=tuple(round(value, digits) for value in header.orientation or ()),
            position=tuple(round(value, digits) for value in header.position or ()),
        )
        for header in headers(grid)
    ]
    random.Random(seed).shuffle(given_headers)
    found = order_slices(given_headers).geometry
    last = [size - 1 for size in grid.shape]
    np.testing.assert_allclose(found.to_lps(last), grid.world(*last), atol=0.02)


def test_positions_with_float32_noise_are_even() -> None:
    noisy = [
        replace(item, position=tuple(float(np.float32(value)) for value in item.position or ()))
        for item in headers()
    ]
    assert len(order_slices(noisy).indices) == len(noisy)


def test_frames_of_one_instance_share_its_uid() -> None:
    frames = [
        replace(item, sop_instance_uid="1.2", frame_number=number)
        for number, item in enumerate(headers(), start=1)
    ]
    assert len(order_slices(frames).indices) == len(frames)


def edit(index: int, **changes: Any) -> Callable[[Headers], Headers]:
    def apply(items: Headers) -> Headers:
        items[index] = replace(items[index], **changes)
        return items

    return apply


def every(**changes: Any) -> Callable[[Headers], Headers]:
    return lambda items: [replace(item, **changes) for item in items]


def without(*indices: int) -> Callable[[Headers], Headers]:
    return lambda items: [item for k, item in enumerate(items) if k not in indices]


def shifted(index: int, offset_mm: float) -> Callable[[Headers], Headers]:
    def apply(items: Headers) -> Headers:
        items[index] = moved(items[index], offset_mm * OBLIQUE.normal)
        return items

    return apply


def sheared(items: Headers) -> Headers:
    return [moved(item, 0.3 * k * np.array(OBLIQUE.row)) for k, item in enumerate(items)]


def one_aside(items: Headers) -> Headers:
    items[6] = moved(items[6], 1.0 * np.array(OBLIQUE.column))
    return items


def twice(items: Headers) -> Headers:
    again = [replace(item, sop_instance_uid=item.sop_instance_uid + ".9") for item in items]
    return items + again


def growing(items: Headers) -> Headers:
    return [moved(item, 0.03 * k * k * OBLIQUE.normal) for k, item in enumerate(items)]


TILTED = rotated(OBLIQUE, x=0.5)
LOCALIZER = rotated(OBLIQUE, x=90)

REFUSED: list[tuple[str, str, Callable[[Headers], Headers]]] = [
    ("no slices", "not_mr", lambda _: []),
    ("one slice", "too_few_slices", lambda items: items[:1]),
    ("two series", "multiple_series", edit(4, series_instance_uid="1.9")),
    ("two studies", "multiple_series", edit(4, study_instance_uid="1.9")),
    ("same UID, other content", "duplicate_sop_uid", edit(4, sop_instance_uid="1.2.7")),
    ("two frames of reference", "mixed_frame_of_reference", edit(4, frame_of_reference_uid="1.9")),
    ("no frame of reference", "missing_geometry", every(frame_of_reference_uid="")),
    ("another matrix", "mixed_matrix", edit(4, rows=19)),
    ("another sign", "mixed_pixel_format", edit(4, pixel_format=(16, 16, 15, 1))),
    ("no position", "missing_geometry", edit(4, position=None)),
    ("short position", "missing_geometry", edit(4, position=(1.0, 2.0))),
    ("NaN position", "missing_geometry", edit(4, position=(1.0, math.nan, 2.0))),
    ("infinite position", "missing_geometry", edit(4, position=(1.0, math.inf, 2.0))),
    ("no orientation", "missing_geometry", every(orientation=None)),
    ("no spacing", "bad_spacing", every(pixel_spacing=None)),
    ("zero spacing", "bad_spacing", every(pixel_spacing=(0.0, 1.0))),
    ("negative spacing", "bad_spacing", every(pixel_spacing=(1.0, -1.0))),
    ("one spacing", "bad_spacing", every(pixel_spacing=(1.0,))),
    ("NaN spacing", "bad_spacing", every(pixel_spacing=(1.0, math.nan))),
    ("mixed spacing", "mixed_spacing", edit(4, pixel_spacing=(1.31, 0.9))),
    ("zero slope", "bad_rescale", edit(4, slope=0.0)),
    ("NaN slope", "bad_rescale", edit(4, slope=math.nan)),
    ("unreadable slope", "bad_rescale", edit(4, slope=None)),
    ("infinite intercept", "bad_rescale", edit(4, intercept=math.inf)),
    ("slope past float32", "not_finite", edit(4, slope=-1e38)),
    ("directions not perpendicular", "bad_orientation", every(orientation=(1, 0, 0, 0.1, 0.99, 0))),
    ("directions not of unit length", "bad_orientation", every(orientation=(2, 0, 0, 0, 1, 0))),
    ("directions of no length", "bad_orientation", every(orientation=(0, 0, 0, 0, 0, 0))),
    (
        "localizer among them",
        "mixed_orientation",
        edit(4, orientation=(*LOCALIZER.row, *LOCALIZER.column)),
    ),
    (
        "half a degree of tilt",
        "mixed_orientation",
        edit(4, orientation=(*TILTED.row, *TILTED.column)),
    ),
    ("two volumes", "duplicate_positions", twice),
    ("middle slice missing", "missing_slices", without(6)),
    ("three slices missing", "missing_slices", without(4, 5, 9)),
    ("one slice off its place", "irregular_spacing", shifted(6, 0.8)),
    ("spacing that grows", "irregular_spacing", growing),
    ("gantry tilt", "sheared", sheared),
    ("one slice to the side", "sheared", one_aside),
    ("too many rows", "too_large", every(rows=65535)),
    ("too many voxels", "too_large", every(rows=4096, columns=4096)),
    ("no rows", "no_pixel_data", every(rows=0)),
]


@pytest.mark.parametrize(
    ("code", "change"), [item[1:] for item in REFUSED], ids=[i[0] for i in REFUSED]
)
def test_refusal_has_its_own_code_and_a_sentence(
    code: str, change: Callable[[Headers], Headers]
) -> None:
    items = headers(replace(OBLIQUE, shape=(22, 18, 40))) if code == "too_large" else headers()
    with pytest.raises(SeriesInvalid) as refused:
        order_slices(change(items))
    assert refused.value.code == code
    assert refused.value.message.endswith(".")
    assert ";" in refused.value.message  # what is wrong; what to do


def test_refusal_names_the_instance() -> None:
    with pytest.raises(SeriesInvalid, match=r"^Instance number 5 has no usable Image Position"):
        order_slices(edit(4, position=None)(headers()))


def test_missing_slices_are_counted_and_placed() -> None:
    with pytest.raises(SeriesInvalid, match=r"^3 slices are missing, first between .* 4 and"):
        order_slices(without(4, 5, 9)(headers()))


def test_the_odd_one_out_is_the_one_that_is_named() -> None:
    with pytest.raises(SeriesInvalid, match="instance number 5 have different numbers of rows"):
        order_slices(edit(4, rows=19)(headers()))


def test_largest_accepted_series_is_larger_than_any_real_one() -> None:
    assert MAX_VOXELS > 512 * 512 * 512

from __future__ import annotations

import base64
import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset

from django_queue_app import frames
from django_queue_app.pacs.embedded import EmbeddedPacs
from django_queue_app.pacs.port import InstanceNotFound
from tests.support.dicom_phantoms import (
    FLIPPED,
    OBLIQUE_SAGITTAL,
    Grid,
    Phantom,
    lesion,
    write_enhanced,
    write_series,
)
from tests.support.seg_files import encode, make_seg, read

pytestmark = pytest.mark.django_db


def planes(grid: Grid) -> np.ndarray:
    """Give the truth as (K, rows, columns), 1 = lesion, 2 = core."""
    return np.moveaxis(lesion(grid), 2, 0).swapaxes(1, 2)


def stored_series(folder: Path, grid: Grid) -> list[bytes]:
    """Store a series in a shuffled order and give its files by geometry."""
    files = write_series(folder, Phantom(grid=grid, order="shuffled"))
    by_place = sorted(
        (path.read_bytes() for path in files),
        key=lambda data: float(np.dot(read(data).ImagePositionPatient, grid.normal)),
    )
    shuffled = list(by_place)
    random.Random(5).shuffle(shuffled)
    for data in shuffled:
        EmbeddedPacs().store_instance(data)
    return by_place


def drawn(seg: bytes, segment: int | None = None) -> np.ndarray:
    seg_id = EmbeddedPacs().store_instance(seg).instance_id
    pictures = [Image.open(io.BytesIO(one)) for one in frames.render_frames(seg_id, segment)]
    assert {one.mode for one in pictures} == {"L"}
    array = np.stack([np.asarray(one) for one in pictures])
    assert set(np.unique(array)) <= {0, 255}
    return array == 255


@pytest.mark.parametrize("grid", [FLIPPED, OBLIQUE_SAGITTAL], ids=["flipped", "oblique_sagittal"])
@pytest.mark.parametrize("omit_empty", [True, False])
def test_each_picture_lies_over_its_slice(tmp_path: Path, grid: Grid, omit_empty: bool) -> None:
    """22 columns are no multiple of 8, so that bits of one frame share bytes with the next."""
    sources, truth = stored_series(tmp_path, grid), planes(grid)
    seg = make_seg(sources, truth, omit_empty_frames=omit_empty)
    assert np.array_equal(drawn(seg), truth > 0)
    assert np.array_equal(drawn(seg, 1), truth == 1)
    assert np.array_equal(drawn(seg, 2), truth == 2)


def test_fractions_from_half_on_are_inside(tmp_path: Path) -> None:
    sources, truth = stored_series(tmp_path, FLIPPED), planes(FLIPPED)
    fractions = np.choose(truth, [0.0, 0.3, 0.8]).astype(np.float32)
    assert np.array_equal(drawn(make_seg(sources, fractions, kind="FRACTIONAL")), truth == 2)


def test_label_maps_are_drawn_by_label(tmp_path: Path) -> None:
    sources, truth = stored_series(tmp_path, FLIPPED), planes(FLIPPED)
    seg = make_seg(sources, truth, kind="LABELMAP")
    assert np.array_equal(drawn(seg), truth > 0)
    assert np.array_equal(drawn(seg, 2), truth == 2)


def test_frames_without_references_are_found_by_position(tmp_path: Path) -> None:
    sources, truth = stored_series(tmp_path, FLIPPED), planes(FLIPPED)
    seg = read(make_seg(sources, truth))
    for group in seg.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence
    assert np.array_equal(drawn(encode(seg)), truth > 0)


def test_an_empty_mask_has_a_picture_of_every_slice(tmp_path: Path) -> None:
    sources = stored_series(tmp_path, FLIPPED)
    empty = np.zeros_like(planes(FLIPPED))
    pictures = drawn(make_seg(sources, empty, omit_empty_frames=False))
    assert pictures.shape == empty.shape
    assert not pictures.any()


def test_frames_of_an_enhanced_source_are_its_slices_along_the_normal(tmp_path: Path) -> None:
    phantom = Phantom(grid=FLIPPED, order="shuffled")
    (path,) = write_enhanced(tmp_path / "enhanced.dcm", phantom)
    EmbeddedPacs().store_instance(path.read_bytes())
    source, truth = read(path.read_bytes()), planes(FLIPPED)
    places = [
        float(np.dot(group.PlanePositionSequence[0].ImagePositionPatient, FLIPPED.normal))
        for group in source.PerFrameFunctionalGroupsSequence
    ]
    in_frame_order = truth[np.argsort(np.argsort(places))]
    seg = make_seg([path.read_bytes()], in_frame_order)
    assert np.array_equal(drawn(seg), truth > 0)


def test_the_answer_counts_slices_from_zero(tmp_path: Path) -> None:
    sources, truth = stored_series(tmp_path, FLIPPED), planes(FLIPPED)
    seg_id = EmbeddedPacs().store_instance(make_seg(sources, truth)).instance_id
    answer = frames.frames(seg_id)
    assert [one["index"] for one in answer] == list(range(14))
    assert base64.b64decode(answer[0]["mask_base64"]).startswith(b"\x89PNG")


def test_what_can_not_be_drawn_is_refused_by_name(tmp_path: Path) -> None:
    sources, truth = stored_series(tmp_path, FLIPPED), planes(FLIPPED)
    pacs = EmbeddedPacs()
    with pytest.raises(InstanceNotFound):
        frames.render_frames("-".join(["01234567"] * 5))
    with pytest.raises(frames.NoMask) as no_seg:
        frames.render_frames(pacs.store_instance(sources[0]).instance_id)
    assert no_seg.value.code == "not_a_segmentation"
    seg_id = pacs.store_instance(make_seg(sources, truth)).instance_id
    with pytest.raises(frames.SegmentNotFound):
        frames.render_frames(seg_id, 3)


def _move(seg: Dataset) -> str:
    for group in seg.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence
        group.PlanePositionSequence[0].ImagePositionPatient = [500.0, 0.0, 0.0]
    return "mask_off_grid"


def _lose_series(seg: Dataset) -> str:
    seg.ReferencedSeriesSequence[0].SeriesInstanceUID = "2.25.1"
    return "source_series_not_found"


@pytest.mark.parametrize("spoil", [_move, _lose_series])
def test_a_mask_that_lies_elsewhere_is_refused(tmp_path: Path, spoil: object) -> None:
    sources, truth = stored_series(tmp_path, FLIPPED), planes(FLIPPED)
    seg = read(make_seg(sources, truth))
    code = spoil(seg)  # type: ignore[operator]
    with pytest.raises(frames.NoMask) as caught:
        drawn(encode(seg))
    assert caught.value.code == code

"""The site's own decoders and the worker agree on slices and masks; only here do they meet."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from django_queue_app.frames import order_slices, render_frames
from django_queue_app.pacs import get_pacs
from django_queue_app.privacy.reidentify import build_vault, reidentify_seg
from tests.support.dicom_phantoms import OBLIQUE, Phantom, lesion, write_enhanced, write_series
from tests.support.imaging_models import CORE, LESION
from tests.support.orientations import axis_orientations
from worker.adapters.dicom_read import open_series
from worker.adapters.dicom_seg import MaskRequest, write_dicom_seg
from worker.core.job import ModelIdentity
from worker.core.segments import SEG_TYPES, Labels

pytestmark = pytest.mark.django_db
MODEL = ModelIdentity(name="phantom_model", version="1", sha256="0123456789abcdef" * 4)


def store(files: tuple[Path, ...]) -> str:
    stored = [get_pacs().store_instance(path.read_bytes()) for path in files]
    return stored[0].series_id


@pytest.mark.parametrize("placed", axis_orientations(), ids=lambda placed: placed.name)
def test_slices_have_one_order_on_both_sides(tmp_path: Path, placed: object) -> None:
    grid = replace(placed.grid, shape=(6, 5, 4))  # type: ignore[attr-defined]
    array = np.zeros(grid.shape, np.uint16)
    phantom = Phantom(grid=grid, order=placed.order)  # type: ignore[attr-defined]
    files = write_series(tmp_path, phantom, array=array)
    theirs = order_slices(get_pacs().describe_series(store(files)))
    ours = open_series(files).sources
    assert [item.sop_uid for item in theirs] == [item.sop_instance_uid for item in ours]


@pytest.mark.parametrize("seg_type", SEG_TYPES)
@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_mask_comes_home_and_is_drawn_slice_by_slice(
    tmp_path: Path, seg_type: str, kind: str
) -> None:
    phantom = Phantom(grid=OBLIQUE, order="shuffled")
    files = (
        write_series(tmp_path / "in", phantom)
        if kind == "classic"
        else write_enhanced(tmp_path / "in.dcm", phantom)
    )
    truth = lesion(OBLIQUE)
    request = MaskRequest(
        request_id="r1",
        labels=Labels(array=np.array([0, 2, 5], np.uint8)[truth], values=(2, 5)),
        specs=(LESION, CORE),
        main=open_series(files),
        others=(),
        model=MODEL,
        seg_type=seg_type,
    )
    path = tmp_path / "mask.dcm"
    write_dicom_seg(request, path, now=datetime(2026, 3, 2, tzinfo=UTC))
    series = get_pacs().describe_series(store(files))
    vault = build_vault(series, [], [], accepts_originals=True)
    mask = reidentify_seg(path.read_bytes(), vault, files[0].read_bytes())
    seg_id = get_pacs().store_instance(mask.data).instance_id
    for segment, expected in ((None, truth > 0), (1, truth == 1), (2, truth == 2)):
        pictures = render_frames(seg_id, segment)
        assert len(pictures) == OBLIQUE.shape[2]
        for k, data in enumerate(pictures):
            picture = tmp_path / "slice.png"
            picture.write_bytes(data)
            with Image.open(picture) as image:
                np.testing.assert_array_equal(np.asarray(image) > 0, expected[:, :, k].T)

from __future__ import annotations

from pathlib import Path

import pytest

from django_queue_app.pacs.embedded import EmbeddedPacs
from django_queue_app.pacs.index import Instance
from django_queue_app.pacs.port import InvalidInstance, PacsUnavailable
from tests.contracts.pacs_contract import PacsContract
from tests.support import small_series
from tests.support.dicom_phantoms import Phantom, write_enhanced
from tests.support.seg_files import encode, read

pytestmark = pytest.mark.django_db


@pytest.fixture
def pacs() -> EmbeddedPacs:
    return EmbeddedPacs()


class TestEmbeddedPacs(PacsContract):
    pass


def code_of(pacs: EmbeddedPacs, data: bytes) -> str:
    with pytest.raises(InvalidInstance) as caught:
        pacs.store_instance(data)
    return caught.value.code


def test_files_lie_below_the_data_folder_by_digest(pacs: EmbeddedPacs, site_folder: Path) -> None:
    stored = pacs.store_instance(small_series.mr_instance(0, **_uids()))
    sha256 = Instance.objects.get(pk=stored.instance_id).sha256
    assert (site_folder / "dicom" / sha256[:2] / sha256[2:4] / f"{sha256}.dcm").is_file()
    assert not list(site_folder.rglob("*.part"))


def test_a_lost_file_is_an_archive_in_trouble_not_an_unknown_id(
    pacs: EmbeddedPacs, site_folder: Path
) -> None:
    stored = pacs.store_instance(small_series.mr_instance(0, **_uids()))
    for path in site_folder.rglob("*.dcm"):
        path.unlink()
    with pytest.raises(PacsUnavailable):
        pacs.read_instance(stored.instance_id)


@pytest.mark.parametrize("cut", [1, 2, 200, 380])
def test_a_file_cut_short_is_refused(pacs: EmbeddedPacs, cut: int) -> None:
    data = small_series.mr_instance(0, **_uids())
    assert code_of(pacs, data[:-cut]) == "truncated"


def test_pixels_short_of_the_header_are_refused(pacs: EmbeddedPacs) -> None:
    dataset = read(small_series.mr_instance(0, **_uids()))
    dataset.PixelData = dataset.PixelData[:-200]
    assert code_of(pacs, encode(dataset)) == "truncated"


@pytest.mark.parametrize("name", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_an_instance_without_its_uids_is_refused(pacs: EmbeddedPacs, name: str) -> None:
    data = small_series.mr_instance(0, **{**_uids(), name: ""})
    assert code_of(pacs, data) == "missing_uid"


def test_frames_of_an_enhanced_object_count_as_slices(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    (path,) = write_enhanced(tmp_path / "enhanced.dcm", Phantom(order="shuffled"))
    stored = pacs.store_instance(path.read_bytes())
    series = pacs.describe_series(stored.series_id)
    assert series.summary.slices == 14
    assert series.instances[0].frames == 14
    assert series.instances[0].position is not None


def _uids() -> dict[str, str]:
    return {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from worker.core.errors import SeriesInvalid
from worker.local_series import choose_main, read_arguments
from worker.segment_command import make_case
from worker.settings import load_settings

MR = "1.2.840.10008.5.1.4.1.1.4"


def write(path: Path, series: str, number: int = 1) -> None:
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = MR
    dataset.SOPInstanceUID = pydicom.uid.generate_uid()
    dataset.SeriesInstanceUID = series
    dataset.SeriesNumber = number
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = MR
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def test_folders_keep_the_order_in_which_they_were_named(tmp_path: Path) -> None:
    write(tmp_path / "T1" / "sub" / "1", "1.2.1")
    write(tmp_path / "플레어" / "a.dcm", "1.2.2")
    write(tmp_path / "플레어" / "b.dcm", "1.2.2")
    series = read_arguments([str(tmp_path / "플레어"), str(tmp_path / "T1")])
    assert [item.series_id for item in series] == ["1.2.2", "1.2.1"]
    assert [len(item.files) for item in series] == [2, 1]


def test_what_is_no_dicom_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "1.dcm", "1.2.1")
    (tmp_path / "notes.txt").write_text("x" * 500)
    (tmp_path / "empty").write_bytes(b"")
    assert len(read_arguments([str(tmp_path)])[0].files) == 1


def test_several_series_in_a_folder_must_be_chosen_from(tmp_path: Path) -> None:
    write(tmp_path / "1", "1.2.1", 3)
    write(tmp_path / "2", "1.2.2", 4)
    with pytest.raises(SeriesInvalid, match=r"holds 2 series, with the numbers 3 \(1 files\)"):
        read_arguments([str(tmp_path)])
    assert read_arguments([f"{tmp_path}#4"])[0].series_id == "1.2.2"
    with pytest.raises(SeriesInvalid, match="has number 9"):
        read_arguments([f"{tmp_path}#9"])


def test_a_folder_without_images_and_one_that_is_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(SeriesInvalid, match="no DICOM images"):
        read_arguments([str(tmp_path)])
    with pytest.raises(SeriesInvalid, match="There is no folder"):
        read_arguments([str(tmp_path / "none")])


def test_one_series_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1", "1.2.1")
    with pytest.raises(SeriesInvalid, match="the same series"):
        read_arguments([str(tmp_path / "a"), str(tmp_path / "a")])


@pytest.mark.parametrize(("main", "position"), [(None, 0), ("2", 1), ("b", 1), ("1", 0)])
def test_the_main_series_is_named_by_number_or_folder(main: str | None, position: int) -> None:
    assert choose_main(main, ["a", "b"]) == position


@pytest.mark.parametrize("main", ["0", "3", "c"])
def test_an_unknown_main_series_is_refused(main: str) -> None:
    with pytest.raises(SeriesInvalid, match="--main"):
        choose_main(main, ["a", "b"])


@pytest.mark.parametrize("kept", [0, 100, 140, 220])
def test_a_damaged_file_is_refused_and_not_passed_over(tmp_path: Path, kept: int) -> None:
    # At the end of a series nothing else would tell that it is missing.
    write(tmp_path / "1.dcm", "1.2.1")
    write(tmp_path / "2.dcm", "1.2.1")
    (tmp_path / "2.dcm").write_bytes((tmp_path / "2.dcm").read_bytes()[:kept])
    with pytest.raises(SeriesInvalid, match=r"2\.dcm .*fetch it again") as refused:
        read_arguments([str(tmp_path)])
    assert refused.value.code == "truncated"


def test_the_directory_of_a_disk_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "1.dcm", "1.2.1")
    write(tmp_path / "DICOMDIR", "")
    directory = pydicom.dcmread(tmp_path / "DICOMDIR")
    directory.SOPClassUID = "1.2.840.10008.1.3.10"
    directory.save_as(tmp_path / "DICOMDIR")
    (tmp_path / "._1.dcm").write_bytes(b"a Mac's companion file")
    assert len(read_arguments([str(tmp_path)])[0].files) == 1


def test_another_threshold_is_another_request_so_that_the_masks_uids_differ(tmp_path: Path) -> None:
    write(tmp_path / "series" / "1", "1.2.1")
    (tmp_path / "config.yaml").write_text("models: {m: {path: m}}\n")

    def request_id(**environ: str) -> str:
        settings = load_settings(tmp_path / "config.yaml", environ)
        folders = [str(tmp_path / "series")]
        return make_case(settings, folders, model=None, out=tmp_path / "o", main=None).request_id

    assert request_id() == request_id()
    assert len({request_id(), request_id(THRESHOLD="0.5"), request_id(THRESHOLD="0.9")}) == 3

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from tests.support.dicom_phantoms import (
    GRIDS,
    OBLIQUE,
    Grid,
    Phantom,
    paint,
    uid,
    write_enhanced,
    write_series,
)
from worker.adapters.dicom_read import list_files, open_series, read_series
from worker.core.errors import SeriesInvalid


def lowered(grid: Grid) -> np.ndarray:
    return (paint(grid).astype(np.int32) - 400).astype(np.int16)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("order", ["ascending", "reversed", "shuffled"])
def test_every_voxel_is_read_to_its_place(tmp_path: Path, name: str, order: str) -> None:
    grid = GRIDS[name]
    volume = read_series(write_series(tmp_path, Phantom(grid=grid, order=order)))
    np.testing.assert_array_equal(volume.array, paint(grid))
    np.testing.assert_allclose(volume.geometry.to_lps([9, 6, 7]), grid.world(9, 6, 7), atol=1e-6)
    assert [source.sop_instance_uid for source in volume.sources] == [
        uid(f"main|{k}") for k in range(grid.shape[2])
    ]


@pytest.mark.parametrize("name", ["sagittal", "oblique"])
@pytest.mark.parametrize("order", ["ascending", "shuffled"])
def test_enhanced_frames_are_read_to_their_place(tmp_path: Path, name: str, order: str) -> None:
    grid = GRIDS[name]
    phantom = Phantom(grid=grid, order=order, slope=2.0, intercept=-10.0)
    volume = read_series(write_enhanced(tmp_path / "enhanced.dcm", phantom))
    np.testing.assert_array_equal(volume.array, paint(grid) * 2.0 - 10.0)
    np.testing.assert_allclose(volume.geometry.to_lps([9, 6, 7]), grid.world(9, 6, 7), atol=1e-6)
    numbers = [source.frame_number for source in volume.sources]
    assert sorted(number or 0 for number in numbers) == list(range(1, grid.shape[2] + 1))
    assert (numbers == sorted(number or 0 for number in numbers)) == (order == "ascending")


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        RLELossless,
        JPEG2000Lossless,
        JPEGLSLossless,
    ],
)
@pytest.mark.parametrize("is_signed", [False, True])
def test_transfer_syntaxes_and_signs_give_the_same_voxels(
    tmp_path: Path, syntax: str, is_signed: bool
) -> None:
    grid = replace(OBLIQUE, shape=(70, 66, 12))  # JPEG 2000 encoders refuse smaller pictures
    array = lowered(grid) if is_signed else paint(grid)
    phantom = Phantom(grid=grid, transfer_syntax=syntax, is_signed=is_signed)
    volume = read_series(write_series(tmp_path, phantom, array=array))
    np.testing.assert_array_equal(volume.array, array)


def test_compressed_enhanced_frames_are_read(tmp_path: Path) -> None:
    phantom = Phantom(grid=OBLIQUE, transfer_syntax=RLELossless, order="shuffled")
    volume = read_series(write_enhanced(tmp_path / "enhanced.dcm", phantom))
    np.testing.assert_array_equal(volume.array, paint(OBLIQUE))


def test_progress_ends_at_one(tmp_path: Path) -> None:
    seen: list[float] = []
    open_series(write_series(tmp_path), on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_copy_of_a_file_is_left_out_with_a_note(tmp_path: Path) -> None:
    files = write_series(tmp_path)
    copy = tmp_path / "copy.dcm"
    copy.write_bytes(files[3].read_bytes())
    opened = open_series([copy, *files])
    assert opened.geometry.shape[2] == len(files)
    assert opened.notes == ("1 file was left out of the series: a copy of another file.",)


def test_objects_without_a_picture_and_other_files_are_left_out_with_a_note(
    tmp_path: Path,
) -> None:
    def report(k: int, dataset: Dataset) -> None:
        if k == 0:
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = (
                "1.2.840.10008.5.1.4.1.1.88.11"
            )
            del dataset.Rows, dataset.PixelData

    write_series(tmp_path, edit=report)
    (tmp_path / "README.txt").write_text("not an image")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    notes = open_series(list_files(tmp_path)).notes
    assert notes == (
        "2 files were left out of the series: not DICOM.",
        "1 file was left out of the series: no picture.",
    )


@pytest.mark.parametrize("kept", [0.05, 0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_file_cut_anywhere_is_refused(tmp_path: Path, kept: float, syntax: str | None) -> None:
    phantom = Phantom(transfer_syntax=syntax) if syntax else Phantom()
    files = write_series(tmp_path, phantom)
    data = files[2].read_bytes()
    files[2].write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(SeriesInvalid) as refused:
        read_series(files)
    assert refused.value.code in {"truncated", "unreadable"}


def test_file_cut_inside_its_pixels_is_called_truncated(tmp_path: Path) -> None:
    files = write_series(tmp_path)
    files[2].write_bytes(files[2].read_bytes()[:-200])
    with pytest.raises(SeriesInvalid, match="is cut short") as refused:
        open_series(files)
    assert refused.value.code == "truncated"


def test_damaged_compressed_stream_is_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path, Phantom(transfer_syntax=JPEGLSLossless))
    data = bytearray(files[2].read_bytes())
    at = data.index(b"\xff\xd8\xff")
    data[at : at + 40] = b"\0" * 40
    files[2].write_bytes(bytes(data))
    with pytest.raises(SeriesInvalid) as refused:
        read_series(files)
    assert refused.value.code == "unreadable"


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 4000, b"\0" * 128 + b"DICM"])
def test_file_that_is_no_dicom_is_refused(tmp_path: Path, content: bytes) -> None:
    files = write_series(tmp_path)
    files[2].write_bytes(content)
    with pytest.raises(SeriesInvalid, match=r"[Ff]ile 3 of 14 \(0003.dcm\)") as refused:
        open_series(files)
    assert refused.value.code in {"unreadable", "truncated"}


def test_two_volumes_in_one_folder_are_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path / "a") + write_series(tmp_path / "b", Phantom(series="other"))
    with pytest.raises(SeriesInvalid) as refused:
        open_series(files)
    assert refused.value.code == "multiple_series"


def test_no_files_at_all_are_refused() -> None:
    with pytest.raises(SeriesInvalid) as refused:
        open_series([])
    assert refused.value.code == "not_mr"

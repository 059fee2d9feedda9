import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
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


def test_deflated_files_are_read(tmp_path: Path) -> None:
    files = write_series(tmp_path, Phantom(grid=OBLIQUE))
    for path in files:
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(read_series(files).array, paint(OBLIQUE))


def test_eight_bit_pixels_with_odd_length_are_read(tmp_path: Path) -> None:
    grid = replace(OBLIQUE, shape=(21, 17, 6))
    array = (paint(grid) // 10).astype(np.uint8)
    volume = read_series(write_series(tmp_path, Phantom(grid=grid, bits=8), array=array))
    np.testing.assert_array_equal(volume.array, array)


def test_overlay_in_the_unused_high_bits_is_not_part_of_the_picture(tmp_path: Path) -> None:
    def twelve_bits(_: int, dataset: Dataset) -> None:
        dataset.BitsStored, dataset.HighBit = 12, 11

    with_overlay = paint(OBLIQUE) | np.uint16(0x8000)
    volume = read_series(
        write_series(tmp_path, Phantom(grid=OBLIQUE), array=with_overlay, edit=twelve_bits)
    )
    np.testing.assert_array_equal(volume.array, paint(OBLIQUE))


def test_rescale_of_each_slice_is_applied(tmp_path: Path) -> None:
    def scale(k: int, dataset: Dataset) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = str(k + 1), "-5"

    volume = read_series(write_series(tmp_path, Phantom(grid=OBLIQUE), edit=scale))
    expected = paint(OBLIQUE) * np.arange(1, OBLIQUE.shape[2] + 1) - 5.0
    np.testing.assert_allclose(volume.array, expected)


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


def set_all(keyword: str, value: object) -> Callable[[int, Dataset], None]:
    return lambda _, dataset: setattr(dataset, keyword, value)


def set_one(keyword: str, value: object) -> Callable[[int, Dataset], None]:
    return lambda k, dataset: setattr(dataset, keyword, value) if k == 5 else None


def set_raw(keyword: str, raw: bytes) -> Callable[[int, Dataset], None]:
    """Put bytes into a header that no library would write."""

    def edit(k: int, dataset: Dataset) -> None:
        if k == 5:
            dataset[keyword].VR = "UN"
            dataset[keyword].value = raw

    return edit


def drop(*keywords: str) -> Callable[[int, Dataset], None]:
    def edit(k: int, dataset: Dataset) -> None:
        if k == 5:
            for keyword in keywords:
                del dataset[keyword]

    return edit


def short_pixels(k: int, dataset: Dataset) -> None:
    if k == 5:
        dataset.PixelData = dataset.PixelData[:-200]


def long_pixels(k: int, dataset: Dataset) -> None:
    if k == 5:
        dataset.PixelData = dataset.PixelData * 2


def colour(k: int, dataset: Dataset) -> None:
    if k == 5:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"


def ct(k: int, dataset: Dataset) -> None:
    if k == 5:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = (
            "1.2.840.10008.5.1.4.1.1.2"
        )


REFUSED: list[tuple[str, str, Callable[[int, Dataset], None]]] = [
    ("pixels cut short", "truncated", short_pixels),
    ("more pixels than frames", "bad_pixel_format", long_pixels),
    ("no pixels", "no_pixel_data", drop("PixelData")),
    ("colour", "not_mr", colour),
    ("CT", "not_mr", ct),
    ("inverted", "monochrome1", set_one("PhotometricInterpretation", "MONOCHROME1")),
    ("mosaic", "mosaic", set_one("ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"])),
    ("two series", "multiple_series", set_one("SeriesInstanceUID", "1.2.3")),
    ("two patients", "mixed_patients", set_one("PatientID", "SECRET")),
    ("a patient and none", "mixed_patients", drop("PatientID")),
    ("no position", "missing_geometry", drop("ImagePositionPatient")),
    ("no orientation", "missing_geometry", drop("ImageOrientationPatient")),
    ("no frame of reference", "mixed_frame_of_reference", drop("FrameOfReferenceUID")),
    ("no spacing", "bad_spacing", drop("PixelSpacing")),
    ("comma in the spacing", "bad_spacing", set_raw("PixelSpacing", b"1,2\\1,2 ")),
    ("zero spacing", "bad_spacing", set_one("PixelSpacing", [0, 0])),
    ("NaN position", "missing_geometry", set_raw("ImagePositionPatient", b"nan\\1\\2 ")),
    ("empty slope", "bad_rescale", set_one("RescaleSlope", None)),
    ("zero slope", "bad_rescale", set_one("RescaleSlope", 0)),
    ("65535 rows", "too_large", set_one("Rows", 65535)),
    ("two thousand million frames", "too_large", set_one("NumberOfFrames", 2**31 - 1)),
    ("other bits", "bad_pixel_format", set_one("BitsStored", 17)),
    ("other sign", "mixed_pixel_format", set_one("PixelRepresentation", 1)),
    ("same UID, other content", "duplicate_sop_uid", set_one("SOPInstanceUID", uid("main|6"))),
]


@pytest.mark.parametrize(("code", "edit"), [i[1:] for i in REFUSED], ids=[i[0] for i in REFUSED])
def test_bad_file_is_refused_by_its_own_code(
    tmp_path: Path, code: str, edit: Callable[[int, Dataset], None]
) -> None:
    with pytest.raises(SeriesInvalid) as refused:
        open_series(write_series(tmp_path, edit=edit))
    assert refused.value.code == code
    message = refused.value.message
    assert re.search(r"nstance number \d+ \(SOP Instance UID|file \d+ of \d+|File \d+", message)
    for secret in ("Phantom", "PHANTOM", "Secret", "SECRET", "19700101"):
        assert secret not in message


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


def test_deeply_nested_file_is_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    sequence = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    files[2].write_bytes(files[2].read_bytes()[:400] + (sequence + item) * 20_000)
    with pytest.raises(SeriesInvalid) as refused:
        open_series(files)
    assert refused.value.code in {"unreadable", "truncated"}


def test_deflated_file_that_grows_without_bound_is_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path)
    dataset = dcmread(files[2])
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(files[2], enforce_file_format=True)
    data = files[2].read_bytes()
    body = data.index(dataset.file_meta.ImplementationVersionName.encode())
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    chunk = b"\0" * (1 << 20)
    bomb = b"".join(squeeze.compress(chunk) for _ in range(300)) + squeeze.flush()
    length = len(dataset.file_meta.ImplementationVersionName.encode())
    files[2].write_bytes(data[: body + length + length % 2] + bomb)
    with pytest.raises(SeriesInvalid) as refused:
        open_series(files)
    assert refused.value.code == "too_large"


def test_unknown_compression_is_refused_by_name(tmp_path: Path) -> None:
    files = write_series(tmp_path, Phantom(transfer_syntax=RLELossless))
    for path in files:
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = MPEG2MPML
        dataset.save_as(path, enforce_file_format=True)
    with pytest.raises(SeriesInvalid, match="compressed in a way") as refused:
        open_series(files)
    assert refused.value.code == "unsupported_transfer_syntax"


def drop_frame(dataset: Dataset) -> None:
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(
        list(dataset.PerFrameFunctionalGroupsSequence)[:-1]
    )


def drop_position(dataset: Dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence


def two_volumes(dataset: Dataset) -> None:
    groups = dataset.PerFrameFunctionalGroupsSequence
    groups[3].PlanePositionSequence = groups[2].PlanePositionSequence


@pytest.mark.parametrize(
    ("code", "edit"),
    [
        ("missing_geometry", drop_frame),
        ("missing_geometry", drop_position),
        ("duplicate_positions", two_volumes),
    ],
)
def test_bad_enhanced_instance_is_refused(
    tmp_path: Path, code: str, edit: Callable[[Dataset], None]
) -> None:
    with pytest.raises(SeriesInvalid) as refused:
        open_series(write_enhanced(tmp_path / "enhanced.dcm", edit=edit))
    assert refused.value.code == code


def test_two_volumes_in_one_folder_are_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path / "a") + write_series(tmp_path / "b", Phantom(series="other"))
    with pytest.raises(SeriesInvalid) as refused:
        open_series(files)
    assert refused.value.code == "multiple_series"


def test_no_files_at_all_are_refused() -> None:
    with pytest.raises(SeriesInvalid) as refused:
        open_series([])
    assert refused.value.code == "not_mr"

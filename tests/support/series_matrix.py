"""Good, unusual and bad series, each with the one right answer: what is read, or why it isn't.

Nothing here comes from a file in the repository: every row writes its own series.
"""

from __future__ import annotations

import struct
import subprocess
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from tests.support.dicom_phantoms import (
    OBLIQUE,
    Grid,
    Phantom,
    decimals,
    paint,
    rotated,
    save,
    uid,
    write_enhanced,
    write_series,
)

Edit = Callable[[int, Dataset], None]
LARGE = replace(OBLIQUE, shape=(70, 66, 6))  # JPEG 2000 encoders refuse smaller pictures
ODD = 5  # the slice that differs from the others


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """What a reader must find: (I, J, K) values on this grid, and how many notes it makes."""

    array: npt.NDArray[np.floating] | npt.NDArray[np.integer]
    grid: Grid
    notes: int = 0


Make = Callable[[Path], Truth | None]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One series: how it is written, and the code that it is refused with (None: it is read)."""

    name: str
    make: Make
    code: str | None = None
    # Refusals name an instance or a file, except where it is the whole series that is wrong.
    names_instance: bool = True


# --- How rows are written


def classic(
    edit: Edit | None = None,
    *,
    phantom: Phantom | None = None,
    array: npt.NDArray[np.integer] | None = None,
    values: npt.NDArray[np.floating] | None = None,
    after: Callable[[Sequence[Path]], None] | None = None,
    notes: int = 0,
) -> Make:
    """Write a classic series, change its headers, then its files; `values` is what it holds."""
    chosen = phantom or Phantom(grid=OBLIQUE)

    def make(folder: Path) -> Truth:
        files = write_series(folder, chosen, array=array, edit=edit)
        if after is not None:
            after(files)
        stored = paint(chosen.grid) if array is None else array
        return Truth(array=stored if values is None else values, grid=chosen.grid, notes=notes)

    return make


def enhanced(
    edit: Callable[[Dataset], None] | None = None,
    *,
    phantom: Phantom | None = None,
    values: npt.NDArray[np.floating] | None = None,
) -> Make:
    """Write an Enhanced MR instance and change it."""
    chosen = phantom or Phantom(grid=OBLIQUE, order="shuffled")

    def make(folder: Path) -> Truth:
        write_enhanced(folder / "enhanced.dcm", chosen, edit=edit)
        return Truth(array=paint(chosen.grid) if values is None else values, grid=chosen.grid)

    return make


def every(**values: object) -> Edit:
    """Set header values of every slice."""

    def edit(_: int, dataset: Dataset) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return edit


def one(**values: object) -> Edit:
    """Set header values of one slice."""
    change = every(**values)
    return lambda k, dataset: change(k, dataset) if k == ODD else None


def without(*keywords: str, k_only: int | None = ODD) -> Edit:
    """Leave out elements of one slice, or of all."""

    def edit(k: int, dataset: Dataset) -> None:
        if k_only in (None, k):
            for keyword in keywords:
                del dataset[keyword]

    return edit


def raw(keyword: str, value: bytes) -> Edit:
    """Put bytes into a header that no library would write."""

    def edit(k: int, dataset: Dataset) -> None:
        if k == ODD:
            dataset[keyword].VR = "UN"
            dataset[keyword].value = value

    return edit


def moved(offset: Callable[[int], Sequence[float] | npt.NDArray[np.float64]]) -> Edit:
    """Shift each slice by millimetres in LPS."""

    def edit(k: int, dataset: Dataset) -> None:
        place = np.array(dataset.ImagePositionPatient, float) + np.asarray(offset(k))
        dataset.ImagePositionPatient = decimals(place)

    return edit


def pixels(change: Callable[[bytes], bytes]) -> Edit:
    """Change the stored bytes of one slice."""

    def edit(k: int, dataset: Dataset) -> None:
        if k == ODD:
            dataset.PixelData = change(dataset.PixelData)

    return edit


def as_class(sop_class: str, *, has_picture: bool, k_only: int = 0) -> Edit:
    """Make one object of another SOP class."""

    def edit(k: int, dataset: Dataset) -> None:
        if k == k_only:
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
            if not has_picture:
                del dataset.Rows, dataset.Columns, dataset.PixelData

    return edit


def file_of(files: Sequence[Path], change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of one file."""
    files[ODD].write_bytes(change(files[ODD].read_bytes()))


def on_file(change: Callable[[bytes], bytes]) -> Callable[[Sequence[Path]], None]:
    """Change the bytes of one file after it was written."""
    return lambda files: file_of(files, change)


def removed(*indices: int) -> Callable[[Sequence[Path]], None]:
    """Take files away."""

    def after(files: Sequence[Path]) -> None:
        for index in indices:
            files[index].unlink()

    return after


def re_encoded(*syntaxes: str) -> Callable[[Sequence[Path]], None]:
    """Write each file in one of these transfer syntaxes, in turn."""

    def after(files: Sequence[Path]) -> None:
        for number, path in enumerate(files):
            syntax = syntaxes[number % len(syntaxes)]
            dataset = dcmread(path)
            if syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
                dataset.compress(syntax, generate_instance_uid=False)
            else:
                dataset.file_meta.TransferSyntaxUID = syntax
            save(dataset, path)

    return after


def jpeg_lossless(files: Sequence[Path]) -> None:
    """Compress with dcmtk, since no Python library writes JPEG lossless."""
    for path in files:
        subprocess.run(["dcmcjpeg", "+e1", str(path), str(path)], check=True)


def recompressed(change: Callable[[bytes], bytes]) -> Callable[[Sequence[Path]], None]:
    """Change the codestream of one file and wrap it anew, so that only the codestream is bad."""

    def after(files: Sequence[Path]) -> None:
        dataset = dcmread(files[ODD])
        (stream,) = _fragments(dataset)
        dataset.PixelData = encapsulate([change(stream)])
        save(dataset, files[ODD])

    return after


def _fragments(dataset: Dataset) -> list[bytes]:
    from pydicom.encaps import generate_frames

    return list(generate_frames(dataset.PixelData, number_of_frames=1))


def _claim_size(stream: bytes) -> bytes:
    # JPEG 2000's SIZ: the image area, then the tiles; 60000 x 60000 pixels in one tile.
    return stream[:8] + struct.pack(">6I", 60000, 60000, 0, 0, 60000, 60000) + stream[32:]


def _rle_bomb(stream: bytes) -> bytes:
    return stream[:64] + b"\x81\x07" * 2_000_000  # each pair grows to 128 bytes


def _with_file(name: str, content: bytes) -> Callable[[Sequence[Path]], None]:
    return lambda files: _write(files[0].parent / name, content)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _unknown_letters(files: Sequence[Path]) -> None:
    for path in files:
        path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"ISO_IR 999"))


def _copied(files: Sequence[Path]) -> None:
    (files[0].parent / "again.dcm").write_bytes(files[ODD].read_bytes())


def _inserted(element: bytes) -> Callable[[bytes], bytes]:
    """Put raw bytes in front of the patient's name."""

    def change(data: bytes) -> bytes:
        at = data.index(b"\x10\x00\x10\x00PN")
        return data[:at] + element + data[at:]

    return change


_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
_SEQUENCE = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)


def _deep(data: bytes) -> bytes:
    return _inserted((_SEQUENCE + _ITEM) * 20_000)(data)


def _bad_and_nested(levels: int) -> bytes:
    """Nest an element of an impossible length: pydicom's message grows with each level."""
    inner = struct.pack("<HH2sH", 0x0028, 0x0010, b"US", 3) + b"abc"
    for _ in range(levels):
        item = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
        inner = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, len(item)) + item
    return inner


def _deflated_bomb(mebibytes: int, count: int) -> Callable[[Sequence[Path]], None]:
    """Deflate some files with a private element of zeros."""

    def after(files: Sequence[Path]) -> None:
        for path in files[:count]:
            dataset = dcmread(path)
            dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
            dataset.add_new(0x00091010, "OB", bytes(mebibytes << 20))
            save(dataset, path)

    return after


def _endless_tail(files: Sequence[Path]) -> None:
    """Append bytes behind the end of a deflated stream."""
    re_encoded(DeflatedExplicitVRLittleEndian)(files)
    file_of(files, lambda data: data + zlib.compress(b"x" * 100_000))


def _media_directory(files: Sequence[Path]) -> None:
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID = uid("dicomdir")
    directory.FileSetID = "DISC"
    directory.DirectoryRecordSequence = DicomSequence([])
    save(directory, files[0].parent / "DICOMDIR")


def _two_series(folder: Path) -> None:
    write_series(folder / "a")
    write_series(folder / "b", Phantom(series="other"))


def _nothing(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)


# --- Enhanced MR


def _groups(dataset: Dataset) -> Sequence[Dataset]:
    groups: Sequence[Dataset] = dataset.PerFrameFunctionalGroupsSequence
    return groups


def _fewer_groups(dataset: Dataset) -> None:
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(list(_groups(dataset))[:-1])


def _frame_without_position(dataset: Dataset) -> None:
    del _groups(dataset)[ODD].PlanePositionSequence


def _two_time_points(dataset: Dataset) -> None:
    groups = _groups(dataset)
    half = len(groups) // 2
    for index in range(half):
        groups[half + index].PlanePositionSequence = groups[index].PlanePositionSequence


def _two_stacks(dataset: Dataset) -> None:
    orientation = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    other = rotated(OBLIQUE, x=90)
    for index, group in enumerate(_groups(dataset)):
        item = Dataset()
        item.ImageOrientationPatient = orientation.ImageOrientationPatient
        if index >= 7:
            item.ImageOrientationPatient = decimals([*other.row, *other.column])
        group.PlaneOrientationSequence = DicomSequence([item])
    del dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence


def _rescaled_frame_by_frame(dataset: Dataset) -> None:
    """Give each frame a slope of one plus its slice number, wherever it stands in the file."""
    for group in _groups(dataset):
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        along = float((place - OBLIQUE.origin_mm) @ OBLIQUE.normal)
        item = Dataset()
        item.RescaleSlope = decimals([1 + round(along / OBLIQUE.spacing_mm[2])])[0]
        item.RescaleIntercept, item.RescaleType = decimals([-5.0])[0], "US"
        group.PixelValueTransformationSequence = DicomSequence([item])
    del dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence


def _without_spacing(dataset: Dataset) -> None:
    del dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence


# --- Values

_PICTURE = paint(OBLIQUE)
_SLOPES = np.arange(1, OBLIQUE.shape[2] + 1)
_LOWERED = (_PICTURE.astype(np.int32) - 400).astype(np.int16)
_PADDED = np.where(_PICTURE == 0, 65000, _PICTURE).astype(np.uint16)
_PADDED_BELOW = np.where(_PICTURE == 0, -2000, _PICTURE).astype(np.int16)
_SIGNED = Phantom(grid=OBLIQUE, is_signed=True)


def _each_slope(k: int, dataset: Dataset) -> None:
    dataset.RescaleSlope, dataset.RescaleIntercept = str(k + 1), "-5"


def _vendor_scaling(k: int, dataset: Dataset) -> None:
    """Add a Philips scale slope and a real-world mapping, which are not the rescale of the file."""
    dataset.RescaleSlope, dataset.RescaleIntercept = "2", "0"
    block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
    block.add_new(0x0E, "FL", 0.0123 * (k + 1))
    mapping = Dataset()
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 17.0, 3.0
    dataset.RealWorldValueMappingSequence = DicomSequence([mapping])


def _private_garbage(_: int, dataset: Dataset) -> None:
    for number in range(40):
        dataset.add_new((0x0029, 0x1000 + number), "UN", bytes(range(256)) * 4)
    dataset.add_new((0x7FE1, 0x1010), "OB", b"\xff" * 4000)


def _both(*edits: Edit) -> Edit:
    def edit(k: int, dataset: Dataset) -> None:
        for change in edits:
            change(k, dataset)

    return edit


_KEPT = OBLIQUE.shape[2] - 1
_TWO = replace(OBLIQUE, shape=(22, 18, 2))
_EIGHT_BITS = Phantom(grid=replace(OBLIQUE, shape=(21, 17, 14)), bits=8)
_EIGHT = (paint(_EIGHT_BITS.grid) // 10).astype(np.uint8)
_MOSAIC = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
_LARGE = Phantom(grid=LARGE)
_J2K = replace(_LARGE, transfer_syntax=JPEG2000Lossless)
_JPEG_LS = Phantom(grid=OBLIQUE, transfer_syntax=JPEGLSLossless)
_RLE = Phantom(grid=OBLIQUE, transfer_syntax=RLELossless)
_CT, _SR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.11"
_PDF, _RAW = "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.66"
_GSPS, _CAPTURE = "1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.5.1.4.1.1.7"


def _skipped(name: str, sop_class: str) -> Row:
    """Put an object without a picture in the place of the first slice; the rest is a volume."""
    rest = replace(
        OBLIQUE,
        shape=(*OBLIQUE.shape[:2], _KEPT),
        origin_mm=tuple(OBLIQUE.world(0, 0, 1).tolist()),
    )

    def make(folder: Path) -> Truth:
        edit = as_class(sop_class, has_picture=False)
        write_series(folder, Phantom(grid=OBLIQUE), edit=edit)
        return Truth(array=_PICTURE[:, :, 1:], grid=rest, notes=1)

    return Row(name=name, make=make)


READ: tuple[Row, ...] = (
    Row(name="plain", make=classic()),
    Row(
        name="implicit VR",
        make=classic(phantom=replace(_LARGE, transfer_syntax="1.2.840.10008.1.2")),
    ),
    Row(
        name="big-endian",
        make=classic(phantom=Phantom(grid=OBLIQUE, transfer_syntax=ExplicitVRBigEndian)),
    ),
    Row(name="deflated", make=classic(after=re_encoded(DeflatedExplicitVRLittleEndian))),
    Row(name="bytes behind a deflated stream", make=classic(after=_endless_tail)),
    Row(name="RLE", make=classic(phantom=_RLE)),
    Row(name="JPEG-LS", make=classic(phantom=_JPEG_LS)),
    Row(name="JPEG 2000", make=classic(phantom=_J2K)),
    Row(name="JPEG lossless", make=classic(after=jpeg_lossless)),
    Row(
        name="mixed transfer syntaxes",
        make=classic(
            phantom=_LARGE,
            after=re_encoded(ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLSLossless),
        ),
    ),
    Row(name="signed", make=classic(phantom=_SIGNED, array=_LOWERED)),
    Row(name="8 bits, odd length", make=classic(phantom=_EIGHT_BITS, array=_EIGHT)),
    Row(
        name="overlay in the high bits",
        make=classic(
            every(BitsStored=12, HighBit=11),
            array=_PICTURE | np.uint16(0x8000),
            values=_PICTURE.astype(float),
        ),
    ),
    Row(name="rescale of each slice", make=classic(_each_slope, values=_PICTURE * _SLOPES - 5.0)),
    Row(
        name="vendor's own scaling beside the rescale",
        make=classic(_vendor_scaling, values=_PICTURE * 2.0),
    ),
    Row(
        name="padding above the picture",
        make=classic(
            every(PixelPaddingValue=65000),
            array=_PADDED,
            values=np.where(_PADDED == 65000, 0.0, _PICTURE),
        ),
    ),
    Row(
        name="range of padding below a signed picture",
        make=classic(
            every(
                PixelPaddingValue=-2001,
                PixelPaddingRangeLimit=-1999,
                RescaleSlope=2,
                RescaleIntercept=7,
            ),
            phantom=_SIGNED,
            array=_PADDED_BELOW,
            values=np.where(_PADDED_BELOW < 0, 0.0, _PADDED_BELOW * 2.0 + 7),
        ),
    ),
    Row(name="private garbage", make=classic(_private_garbage)),
    Row(
        name="unknown character set",
        make=classic(every(SpecificCharacterSet="ISO_IR 100"), after=_unknown_letters),
    ),
    Row(name="one frame in a classic image", make=classic(every(NumberOfFrames=1))),
    Row(name="thick slices that overlap", make=classic(every(SliceThickness="5.0"))),
    Row(name="thin slices with a gap", make=classic(every(SliceThickness="0.5"))),
    Row(
        name="spacing between slices that is not true",
        make=classic(every(SpacingBetweenSlices="99.0", SliceLocation="0")),
    ),
    Row(name="instance numbers all the same", make=classic(every(InstanceNumber="1"))),
    Row(
        name="two slices",
        make=classic(phantom=Phantom(grid=_TWO), array=_PICTURE[:, :, 6:8]),
    ),
    Row(name="a file twice", make=classic(after=_copied, notes=1)),
    Row(
        name="a text beside the images", make=classic(after=_with_file("README.txt", b"x"), notes=1)
    ),
    Row(
        name="a hidden file beside the images", make=classic(after=_with_file(".DS", b"x"), notes=1)
    ),
    Row(name="DICOMDIR beside the images", make=classic(after=_media_directory, notes=1)),
    _skipped("report among the slices", _SR),
    _skipped("PDF among the slices", _PDF),
    _skipped("raw data among the slices", _RAW),
    _skipped("presentation state among the slices", _GSPS),
    Row(
        name="last slice missing, which only the archive's count tells",
        make=lambda folder: _without_last(folder),
    ),
    Row(
        name="bad element deep in a sequence",
        make=classic(after=on_file(_inserted(_bad_and_nested(12)))),
    ),
    Row(name="Enhanced, shuffled frames", make=enhanced()),
    Row(
        name="Enhanced, compressed",
        make=enhanced(phantom=Phantom(grid=OBLIQUE, order="shuffled", transfer_syntax=RLELossless)),
    ),
    Row(
        name="Enhanced, rescale of each frame",
        make=enhanced(_rescaled_frame_by_frame, values=_PICTURE * _SLOPES - 5.0),
    ),
)


def _without_last(folder: Path) -> Truth:
    files = write_series(folder, Phantom(grid=OBLIQUE))
    files[-1].unlink()
    return Truth(array=_PICTURE[:, :, :-1], grid=replace(OBLIQUE, shape=(22, 18, _KEPT)))


def refused(code: str, name: str, make: Make, *, names_instance: bool = True) -> Row:
    """Write a row of the second half."""
    return Row(name=name, make=make, code=code, names_instance=names_instance)


REFUSED: tuple[Row, ...] = (
    refused("not_mr", "empty folder", _nothing, names_instance=False),
    refused("too_few_slices", "one slice", classic(after=removed(*range(1, 14)))),
    refused("truncated", "pixels 200 bytes short", classic(pixels(lambda data: data[:-200]))),
    refused(
        "truncated", "file cut inside its pixels", classic(after=on_file(lambda data: data[:-200]))
    ),
    refused(
        "truncated", "file cut inside its header", classic(after=on_file(lambda data: data[:700]))
    ),
    refused(
        "unreadable",
        "compressed file cut",
        classic(phantom=_RLE, after=on_file(lambda data: data[:-9])),
    ),
    refused("bad_pixel_format", "twice the pixels", classic(pixels(lambda data: data * 2))),
    refused("bad_pixel_format", "17 bits stored of 16", classic(one(BitsStored=17))),
    refused("bad_pixel_format", "high bit elsewhere", classic(one(BitsStored=12, HighBit=15))),
    refused("no_pixel_data", "no pixels", classic(without("PixelData"))),
    refused("no_pixel_data", "no rows", classic(one(Rows=0))),
    refused("not_mr", "colour", classic(one(SamplesPerPixel=3, PhotometricInterpretation="RGB"))),
    refused("not_mr", "palette", classic(one(PhotometricInterpretation="PALETTE COLOR"))),
    refused("not_mr", "CT", classic(as_class(_CT, has_picture=True, k_only=ODD))),
    refused("not_mr", "screenshot", classic(as_class(_CAPTURE, has_picture=True, k_only=ODD))),
    refused("monochrome1", "inverted", classic(one(PhotometricInterpretation="MONOCHROME1"))),
    refused("mosaic", "Siemens mosaic", classic(every(ImageType=_MOSAIC))),
    refused("multiple_series", "two series", _two_series),
    refused(
        "multiple_series", "a slice of another series", classic(one(SeriesInstanceUID="1.2.3"))
    ),
    refused("mixed_patients", "a slice of another patient", classic(one(PatientID="SECRET"))),
    refused("mixed_patients", "a slice of nobody", classic(without("PatientID"))),
    refused(
        "duplicate_sop_uid", "one UID, two contents", classic(one(SOPInstanceUID=uid("main|6")))
    ),
    refused("missing_geometry", "no position", classic(without("ImagePositionPatient"))),
    refused("missing_geometry", "no orientation", classic(without("ImageOrientationPatient"))),
    refused(
        "missing_geometry", "position of NaN", classic(raw("ImagePositionPatient", b"nan\\1\\2 "))
    ),
    refused(
        "missing_geometry",
        "infinite position",
        classic(raw("ImagePositionPatient", b"1e999\\1\\2")),
    ),
    refused(
        "missing_geometry",
        "position of two numbers",
        classic(raw("ImagePositionPatient", b"1\\2 ")),
    ),
    refused(
        "missing_geometry",
        "no frame of reference at all",
        classic(without("FrameOfReferenceUID", k_only=None)),
    ),
    refused(
        "missing_geometry",
        "several frames in a classic image",
        classic(_both(one(NumberOfFrames=2), pixels(lambda data: data * 2))),
    ),
    refused(
        "mixed_frame_of_reference",
        "two frames of reference",
        classic(one(FrameOfReferenceUID="1.9")),
    ),
    refused(
        "mixed_matrix",
        "another matrix",
        classic(_both(one(Rows=17), pixels(lambda data: data[: 17 * 22 * 2]))),
    ),
    refused("mixed_pixel_format", "another sign", classic(one(PixelRepresentation=1))),
    refused(
        "mixed_orientation",
        "localizer among the slices",
        classic(
            one(
                ImageOrientationPatient=decimals(
                    [*rotated(OBLIQUE, x=90).row, *rotated(OBLIQUE, x=90).column]
                )
            )
        ),
    ),
    refused(
        "bad_orientation",
        "directions not perpendicular",
        classic(one(ImageOrientationPatient=decimals([1, 0, 0, 0.1, 0.99, 0]))),
    ),
    refused(
        "duplicate_positions",
        "two slices at one place",
        classic(
            moved(lambda k: -OBLIQUE.spacing_mm[2] * OBLIQUE.normal if k == ODD else np.zeros(3))
        ),
    ),
    refused("missing_slices", "middle slice missing", classic(after=removed(6))),
    refused(
        "irregular_spacing",
        "spacing that grows",
        classic(moved(lambda k: 0.03 * k * k * OBLIQUE.normal)),
    ),
    refused("sheared", "gantry tilt", classic(moved(lambda k: 0.3 * k * np.array(OBLIQUE.row)))),
    refused(
        "sheared",
        "one slice aside",
        classic(moved(lambda k: np.array(OBLIQUE.column) if k == ODD else np.zeros(3))),
    ),
    refused("bad_spacing", "no spacing", classic(without("PixelSpacing"))),
    refused("bad_spacing", "spacing of zero", classic(one(PixelSpacing=[0, 0]))),
    refused("bad_spacing", "comma in the spacing", classic(raw("PixelSpacing", b"1,2\\1,2 "))),
    refused("mixed_spacing", "another spacing", classic(one(PixelSpacing=[1.31, 0.9]))),
    refused("bad_rescale", "slope of zero", classic(one(RescaleSlope=0))),
    refused("bad_rescale", "empty slope", classic(one(RescaleSlope=None))),
    refused(
        "bad_rescale",
        "slope of NaN",
        classic(_both(every(RescaleSlope=1), raw("RescaleSlope", b"NaN "))),
    ),
    refused(
        "not_finite",
        "slope past all numbers",
        classic(one(RescaleSlope="1e38", RescaleIntercept="0")),
    ),
    refused("too_large", "65535 rows", classic(one(Rows=65535))),
    refused("too_large", "65535 rows, compressed", classic(one(Rows=65535), phantom=_RLE)),
    refused("too_large", "2**31 frames", classic(one(NumberOfFrames=2**31 - 1))),
    refused(
        "too_large", "a deflated file that grows to 300 MiB", classic(after=_deflated_bomb(300, 1))
    ),
    refused(
        "too_large", "deflated files that grow together", classic(after=_deflated_bomb(200, 6))
    ),
    refused(
        "unsupported_transfer_syntax", "a film", classic(phantom=_RLE, after=re_encoded(MPEG2MPML))
    ),
    refused("unreadable", "20,000 sequences in each other", classic(after=on_file(_deep))),
    refused(
        "unreadable", "no DICOM under a slice's name", classic(after=on_file(lambda _: b"hello"))
    ),
    refused(
        "unreadable",
        "JPEG-LS with a damaged head",
        classic(phantom=_JPEG_LS, after=recompressed(lambda stream: bytes(40) + stream[40:])),
    ),
    refused(
        "unreadable",
        "JPEG 2000 cut short",
        classic(phantom=_J2K, after=recompressed(lambda stream: stream[: len(stream) // 2])),
    ),
    refused(
        "unreadable",
        "JPEG 2000 that claims 60000 x 60000",
        classic(phantom=_J2K, after=recompressed(_claim_size)),
    ),
    refused(
        "unreadable",
        "HTJ2K that is none",
        classic(phantom=_JPEG_LS, after=re_encoded(HTJ2KLossless)),
    ),
    refused(
        "unreadable",
        "RLE that grows to 256 MB",
        classic(phantom=_RLE, after=recompressed(_rle_bomb)),
    ),
    refused("missing_geometry", "Enhanced, a frame not described", enhanced(_fewer_groups)),
    refused(
        "missing_geometry", "Enhanced, a frame without position", enhanced(_frame_without_position)
    ),
    refused("bad_spacing", "Enhanced, no spacing", enhanced(_without_spacing)),
    refused("duplicate_positions", "Enhanced, two time points", enhanced(_two_time_points)),
    refused("mixed_orientation", "Enhanced, two stacks", enhanced(_two_stacks)),
)
MATRIX = READ + REFUSED

"""Small DICOM MR series whose truth is known: asymmetric, on any grid, in any file order.

Where a voxel lies is computed here from the phantom's own numbers and never by the code under test.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)
from pydicom.valuerep import DSfloat

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4.1"

TISSUE, LESION, CORE = 300, 900, 1500  # stored values


def uid(*parts: str) -> str:
    """Give the same UID for the same words."""
    return str(generate_uid(entropy_srcs=["phantom|" + "|".join(parts)]))


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid by its own numbers: the two directions and the normal, in LPS."""

    row: tuple[float, float, float] = (1.0, 0.0, 0.0)  # column index grows along it
    column: tuple[float, float, float] = (0.0, 1.0, 0.0)  # row index grows along it
    shape: tuple[int, int, int] = (22, 18, 14)  # columns, rows, slices
    spacing_mm: tuple[float, float, float] = (0.9, 1.3, 2.5)
    origin_mm: tuple[float, float, float] = (-41.5, 12.25, 63.0)
    frame_of_reference_uid: str = uid("frame of reference")

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """The direction in which slices are counted."""
        return np.cross(self.row, self.column)

    def world(self, i: float, j: float, k: float) -> npt.NDArray[np.float64]:
        """Give the LPS point of a voxel."""
        di, dj, dk = self.spacing_mm
        return np.asarray(
            np.array(self.origin_mm)
            + i * di * np.array(self.row)
            + j * dj * np.array(self.column)
            + k * dk * self.normal
        )

    @property
    def voxel_volume_ml(self) -> float:
        """Millilitres."""
        return float(np.prod(self.spacing_mm)) / 1000


def rotated(grid: Grid, *, x: float = 0, y: float = 0, z: float = 0) -> Grid:
    """Tilt a grid by degrees around the axes of LPS, one after the other."""
    a, b, c = np.radians([x, y, z])
    around_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    around_y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    around_z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    matrix = np.array(around_z) @ np.array(around_y) @ np.array(around_x)
    row, column = (matrix @ np.array(vector) for vector in (grid.row, grid.column))
    return replace(grid, row=tuple(row.tolist()), column=tuple(column.tolist()))


AXIAL = Grid()
CORONAL = Grid(row=(1, 0, 0), column=(0, 0, -1))
SAGITTAL = Grid(row=(0, 1, 0), column=(0, 0, -1))
FLIPPED = Grid(row=(-1, 0, 0), column=(0, 1, 0))  # the normal points down: feet last
OBLIQUE = rotated(AXIAL, x=17, y=-11, z=23)
OBLIQUE_SAGITTAL = rotated(SAGITTAL, x=-9, y=6, z=14)
GRIDS = {
    "axial": AXIAL,
    "coronal": CORONAL,
    "sagittal": SAGITTAL,
    "flipped": FLIPPED,
    "oblique": OBLIQUE,
    "oblique_sagittal": OBLIQUE_SAGITTAL,
}


def paint(grid: Grid) -> npt.NDArray[np.uint16]:
    """Paint an asymmetric picture: (I, J, K) stored values.

    A block of tissue off the centre, in it an L-shaped lesion that no flip, transpose or shift
    maps onto itself, and a core at one of its ends.
    """
    i, j, k = grid.shape
    array = np.zeros(grid.shape, dtype=np.uint16)
    array[2 : i - 3, 1 : j - 2, 1 : k - 1] = TISSUE
    array[4:12, 5:8, 3:9] = LESION
    array[4:6, 5:14, 3:5] = LESION
    array[9:11, 6:8, 6:9] = CORE
    return array


def lesion(grid: Grid) -> npt.NDArray[np.uint8]:
    """Give the truth of `paint`: (I, J, K), 1 = lesion, 2 = core."""
    stored = paint(grid)
    return (stored >= LESION).astype(np.uint8) + (stored >= CORE)


Edit = Callable[[int, Dataset], None]


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """How a series is written."""

    grid: Grid = AXIAL
    series: str = "main"
    study: str = "study"
    order: str = "ascending"  # of files and instance numbers: ascending, reversed, shuffled
    transfer_syntax: str = ExplicitVRLittleEndian
    slope: float = 1.0
    intercept: float = 0.0
    is_signed: bool = False
    bits: int = 16


def write_series(
    folder: Path,
    phantom: Phantom | None = None,
    *,
    array: npt.NDArray[np.integer] | None = None,
    edit: Edit | None = None,
) -> tuple[Path, ...]:
    """Write a classic MR series, one file per slice.

    Parameters
    ----------
    array : (I, J, K) integer, optional
        Stored values; `paint` by default.
    edit : callable, optional
        Called with k and the dataset before it is written.

    Returns
    -------
    tuple of Path
        In the order of the files' names, which need not be that of the slices.
    """
    phantom = phantom or Phantom()
    stored = paint(phantom.grid) if array is None else array
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, k in enumerate(_file_order(phantom), start=1):
        dataset = classic_slice(phantom, stored, k, number)
        if edit is not None:
            edit(k, dataset)
        paths.append(folder / f"{number:04d}.dcm")
        save(dataset, paths[-1])
    return tuple(paths)


def save(dataset: Dataset, path: Path) -> None:
    """Write a dataset as it is, valid or not."""
    dataset.save_as(path, enforce_file_format=True)


def _file_order(phantom: Phantom) -> Sequence[int]:
    slices = list(range(phantom.grid.shape[2]))
    if phantom.order == "reversed":
        slices.reverse()
    elif phantom.order == "shuffled":
        random.Random(7).shuffle(slices)
    return slices


def classic_slice(
    phantom: Phantom, stored: npt.NDArray[np.integer], k: int, number: int
) -> Dataset:
    """Build the MR instance of slice k."""
    grid = phantom.grid
    dataset = _common(phantom, MR_IMAGE, f"{phantom.series}|{k}")
    dataset.InstanceNumber = str(number)
    dataset.ImagePositionPatient = decimals(grid.world(0, 0, k))
    dataset.ImageOrientationPatient = decimals([*grid.row, *grid.column])
    dataset.PixelSpacing = decimals([grid.spacing_mm[1], grid.spacing_mm[0]])
    dataset.SliceThickness = decimals([grid.spacing_mm[2]])[0]
    if (phantom.slope, phantom.intercept) != (1.0, 0.0):
        dataset.RescaleSlope = decimals([phantom.slope])[0]
        dataset.RescaleIntercept = decimals([phantom.intercept])[0]
        dataset.RescaleType = "US"
    _add_pixels(dataset, phantom, stored[:, :, k].T)
    return dataset


def write_enhanced(
    path: Path,
    phantom: Phantom | None = None,
    *,
    array: npt.NDArray[np.integer] | None = None,
    edit: Callable[[Dataset], None] | None = None,
) -> tuple[Path, ...]:
    """Write an Enhanced MR instance with the frames in `phantom.order`."""
    phantom = phantom or Phantom()
    stored = paint(phantom.grid) if array is None else array
    grid = phantom.grid
    dataset = _common(phantom, ENHANCED_MR_IMAGE, f"{phantom.series}|enhanced")
    dataset.InstanceNumber = "1"
    order = _file_order(phantom)
    dataset.NumberOfFrames = str(len(order))
    dataset.SharedFunctionalGroupsSequence = DicomSequence([_shared_group(phantom)])
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence([_frame_group(grid, k) for k in order])
    frames = np.stack([stored[:, :, k].T for k in order])
    _add_pixels(dataset, phantom, frames)
    if edit is not None:
        edit(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(dataset, path)
    return (path,)


def _shared_group(phantom: Phantom) -> Dataset:
    grid = phantom.grid
    orientation, measures, rescale, shared = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = decimals([*grid.row, *grid.column])
    measures.PixelSpacing = decimals([grid.spacing_mm[1], grid.spacing_mm[0]])
    measures.SliceThickness = decimals([grid.spacing_mm[2]])[0]
    rescale.RescaleSlope = decimals([phantom.slope])[0]
    rescale.RescaleIntercept = decimals([phantom.intercept])[0]
    rescale.RescaleType = "US"
    shared.PlaneOrientationSequence = DicomSequence([orientation])
    shared.PixelMeasuresSequence = DicomSequence([measures])
    shared.PixelValueTransformationSequence = DicomSequence([rescale])
    return shared


def _frame_group(grid: Grid, k: int) -> Dataset:
    position, group = Dataset(), Dataset()
    position.ImagePositionPatient = decimals(grid.world(0, 0, k))
    group.PlanePositionSequence = DicomSequence([position])
    return group


def decimals(values: Sequence[float] | npt.NDArray[np.float64]) -> list[DSfloat]:
    """Write numbers as decimal strings of at most 16 characters."""
    return [DSfloat(float(value), auto_format=True) for value in values]


def _common(phantom: Phantom, sop_class: str, instance: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = phantom.transfer_syntax
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = uid(instance)
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = uid(instance)
    dataset.StudyInstanceUID = uid(phantom.study)
    dataset.SeriesInstanceUID = uid(phantom.series)
    dataset.FrameOfReferenceUID = phantom.grid.frame_of_reference_uid
    dataset.PositionReferenceIndicator = ""
    dataset.Modality = "MR"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.PatientName = "Phantom^Asymmetric"
    dataset.PatientID = "PHANTOM-1"
    dataset.PatientBirthDate = "19700101"
    dataset.PatientSex = "O"
    dataset.AccessionNumber = "A1"
    dataset.StudyID = "1"
    dataset.StudyDate = "20260301"
    dataset.StudyTime = "100000"
    dataset.ReferringPhysicianName = ""
    dataset.SeriesNumber = "3"
    dataset.Manufacturer = "Phantom works"
    dataset.InstitutionName = "Secret Hospital"
    dataset.StationName = "SECRETSTATION"
    dataset.DeviceSerialNumber = "SECRETSERIAL"
    dataset.PatientComments = "Secret comment"
    return dataset


def _add_pixels(dataset: Dataset, phantom: Phantom, frames: npt.NDArray[np.integer]) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = frames.shape[-2:]
    dataset.BitsAllocated = phantom.bits
    dataset.BitsStored = phantom.bits
    dataset.HighBit = phantom.bits - 1
    dataset.PixelRepresentation = int(phantom.is_signed)
    kind = f"{'>' if phantom.transfer_syntax == ExplicitVRBigEndian else '<'}"
    kind += f"{'i' if phantom.is_signed else 'u'}{phantom.bits // 8}"
    native = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
    if phantom.transfer_syntax in native:
        data = frames.astype(kind).tobytes()
        dataset.PixelData = data + b"\0" * (len(data) % 2)
        dataset["PixelData"].VR = "OW"
        return
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.compress(phantom.transfer_syntax, frames.astype(kind), generate_instance_uid=False)

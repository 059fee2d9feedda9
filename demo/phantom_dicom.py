"""Write a phantom as four classic MR series in one frame of reference.

Each series has its own oblique grid, as a real examination does: nothing downstream may assume
that they agree, or that rows and columns follow the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy import ndimage

from demo.anatomy import Anatomy
from demo.fields import Affine, Axes, FloatArray, Grid, rotation_from_degrees
from demo.phantom import LabelArray, ScanQuality, lay_out, render

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

# Index axes (column, row, slice) -> RAS, for slices seen as a reader expects them.
AXIAL = np.array([[-1.0, 0, 0], [0, -1, 0], [0, 0, 1]])
SAGITTAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One acquisition of the examination, in the standard's words."""

    sequence: str
    description: str
    shape: Axes
    spacing_mm: tuple[float, float, float]
    thickness_mm: float
    plane: Affine
    tilt_degrees: tuple[float, float, float]
    centre_mm: tuple[float, float, float]
    scanning_sequence: str | tuple[str, ...]
    sequence_variant: str
    acquisition_type: str
    repetition_time_ms: float
    echo_time_ms: float
    echo_train: int
    inversion_time_ms: float | None = None
    contrast_agent: str | None = None
    numbered_downwards: bool = False

    @property
    def grid(self) -> Grid:
        """The grid its slices lie on."""
        return Grid.centred(
            self.shape,
            self.spacing_mm,
            rotation=rotation_from_degrees(self.tilt_degrees) @ self.plane,
            centre_mm=self.centre_mm,
        )


PROTOCOLS = (
    Protocol(
        sequence="T1c",
        description="AX T1 SE POST GAD",
        shape=(192, 192, 52),
        spacing_mm=(1.15, 1.15, 2.6),
        thickness_mm=2.6,
        plane=AXIAL,
        tilt_degrees=(11.0, -5.0, 4.0),
        centre_mm=(2.0, 3.0, 8.0),
        scanning_sequence="SE",
        sequence_variant="SK",
        acquisition_type="2D",
        repetition_time_ms=620.0,
        echo_time_ms=11.0,
        echo_train=1,
        contrast_agent="Simulated gadolinium chelate",
    ),
    Protocol(
        sequence="T1",
        description="SAG T1 MPRAGE",
        shape=(176, 176, 76),
        spacing_mm=(1.3, 1.3, 2.3),
        thickness_mm=2.3,
        plane=SAGITTAL,
        tilt_degrees=(3.0, 2.0, -4.0),
        centre_mm=(1.0, 6.0, 2.0),
        scanning_sequence=("GR", "IR"),
        sequence_variant="MP",
        acquisition_type="3D",
        repetition_time_ms=2100.0,
        echo_time_ms=3.1,
        echo_train=1,
        inversion_time_ms=900.0,
    ),
    Protocol(
        sequence="T2",
        description="AX T2 TSE",
        shape=(208, 224, 36),
        spacing_mm=(1.0, 1.0, 4.0),
        thickness_mm=3.6,
        plane=AXIAL,
        tilt_degrees=(8.0, -3.0, 2.0),
        centre_mm=(0.0, 4.0, 9.0),
        scanning_sequence="SE",
        sequence_variant="SK",
        acquisition_type="2D",
        repetition_time_ms=4800.0,
        echo_time_ms=102.0,
        echo_train=13,
    ),
    Protocol(
        sequence="FLAIR",
        description="AX T2 FLAIR",
        shape=(160, 176, 46),
        spacing_mm=(1.35, 1.35, 3.0),
        thickness_mm=3.0,
        plane=AXIAL,
        tilt_degrees=(11.0, -5.0, 4.0),
        centre_mm=(3.0, 2.0, 7.0),
        scanning_sequence="IR",
        sequence_variant="SK",
        acquisition_type="2D",
        repetition_time_ms=9000.0,
        echo_time_ms=94.0,
        echo_train=17,
        inversion_time_ms=2500.0,
        numbered_downwards=True,
    ),
)
MAIN = PROTOCOLS[0]

# Thin slices averaged into each slice: about 1 mm apart, so that a slice is as thick as it says.
SUBSLICES = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """One acquired series before it is written.

    Parameters
    ----------
    pixels : (I, J, K) uint16
        Axes column, row, slice.
    """

    protocol: Protocol
    pixels: npt.NDArray[np.uint16]


def acquire(anatomy: Anatomy, protocol: Protocol) -> Scan:
    """Scan a head by one protocol; the same head and protocol give the same pixels."""
    number = _series_index(protocol)
    rng = np.random.default_rng([20_240_503, anatomy.seed, number])
    quality = ScanQuality.draw(rng)
    image = np.zeros(protocol.shape, np.float32)
    for n, thin in enumerate(_subslice_grids(protocol)):
        # Noise is the receiver's and falls on the finished slice: each part carries more of it.
        part = ScanQuality(
            noise=quality.noise * SUBSLICES**0.5, bias=quality.bias, gain=quality.gain
        )
        image += render(lay_out(anatomy, thin), protocol.sequence, part, (anatomy.seed, number, n))
    full_scale = rng.uniform(700, 3000)
    scaled = image * (full_scale / np.percentile(image, 99.9))
    return Scan(protocol=protocol, pixels=np.clip(np.rint(scaled), 0, 4095).astype(np.uint16))


def truth_on_main_grid(anatomy: Anatomy) -> LabelArray:
    """Label map of the lesions at the voxel centres of the main (T1c) series, (I, J, K)."""
    return lay_out(anatomy, MAIN.grid).labels


def resample_to_main(scan: Scan) -> FloatArray:
    """Bring a scan onto the main series' grid, linearly; 0 where it does not reach."""
    if scan.protocol is MAIN:
        return scan.pixels.astype(np.float32)
    step = np.linalg.inv(scan.protocol.grid.affine_ras) @ MAIN.grid.affine_ras
    moved: FloatArray = ndimage.affine_transform(
        scan.pixels.astype(np.float32), step[:3, :3], step[:3, 3], MAIN.shape, order=1
    )
    return moved


def write_series(scan: Scan, folder: Path, seed: int) -> list[Path]:
    """Write a scan as one classic MR series, a file a slice; returns the files in slice order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for dataset in _instances(scan, seed):
        path = folder / f"IM{int(dataset.InstanceNumber):04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def uid_for(*parts: object) -> UID:
    """Make the UID that these parts always get."""
    # One string: generate_uid joins its parts bare, so ("1", "23") would equal ("12", "3").
    return generate_uid(entropy_srcs=["demo-phantom|" + "|".join(map(str, parts))])


def _series_index(protocol: Protocol) -> int:
    return [known.sequence for known in PROTOCOLS].index(protocol.sequence)


def _subslice_grids(protocol: Protocol) -> Iterator[Grid]:
    """Build the grids of the thin parts of each slice, spread over its thickness."""
    grid = protocol.grid
    normal = grid.affine_ras[:3, 2] / np.linalg.norm(grid.affine_ras[:3, 2])
    for n in range(SUBSLICES):
        affine = grid.affine_ras.copy()
        affine[:3, 3] += normal * protocol.thickness_mm * ((n + 0.5) / SUBSLICES - 0.5)
        yield Grid(shape=grid.shape, affine_ras=affine)


def _instances(scan: Scan, seed: int) -> Iterator[Dataset]:
    protocol = scan.protocol
    affine_lps = RAS_TO_LPS @ protocol.grid.affine_ras
    slices = scan.pixels.shape[2]
    window = float(np.percentile(scan.pixels, 99.5))
    for k in range(slices):
        dataset = Dataset()
        _set_identity(dataset, protocol, seed, k)
        _set_patient_and_study(dataset, seed)
        _set_series(dataset, protocol, seed)
        _set_acquisition(dataset, protocol)
        dataset.InstanceNumber = slices - k if protocol.numbered_downwards else k + 1
        _set_plane(dataset, protocol, affine_lps, k)
        _set_pixels(dataset, scan.pixels[:, :, k].T, window)
        yield dataset


def _set_identity(dataset: Dataset, protocol: Protocol, seed: int, k: int) -> None:
    uid = uid_for(seed, protocol.sequence, "instance", k)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = uid
    dataset.SpecificCharacterSet = "ISO_IR 192"


def _set_patient_and_study(dataset: Dataset, seed: int) -> None:
    dataset.PatientName = "DEMO^PHANTOM"
    dataset.PatientID = f"DEMO-{seed}"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "O"
    dataset.PatientComments = "Synthetic phantom, not a patient. Not for clinical use."
    dataset.StudyInstanceUID = uid_for(seed, "study")
    dataset.StudyDate = "20240501"
    dataset.StudyTime = "090000"
    dataset.StudyID = "DEMO"
    dataset.StudyDescription = "DEMO brain phantom (synthetic)"
    dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName = ""


def _set_series(dataset: Dataset, protocol: Protocol, seed: int) -> None:
    number = _series_index(protocol) + 1
    dataset.Modality = "MR"
    dataset.SeriesInstanceUID = uid_for(seed, protocol.sequence, "series")
    dataset.SeriesNumber = number
    dataset.SeriesDescription = protocol.description
    dataset.ProtocolName = protocol.description
    dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20240501"
    dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = f"09{5 * number:02d}00"
    dataset.AcquisitionNumber = 1
    dataset.BodyPartExamined = "HEAD"
    dataset.PatientPosition = "HFS"
    dataset.FrameOfReferenceUID = uid_for(seed, "frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.Manufacturer = "Synthetic"
    dataset.ManufacturerModelName = "demo.phantom"
    dataset.DeviceSerialNumber = "0"
    dataset.SoftwareVersions = "1"


def _set_acquisition(dataset: Dataset, protocol: Protocol) -> None:
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.ImageComments = "Synthetic phantom"
    dataset.QualityControlImage = "YES"
    dataset.BurnedInAnnotation = "NO"
    dataset.ScanningSequence = _multivalued(protocol.scanning_sequence)
    dataset.SequenceVariant = protocol.sequence_variant
    dataset.ScanOptions = ""
    dataset.MRAcquisitionType = protocol.acquisition_type
    dataset.RepetitionTime = protocol.repetition_time_ms
    dataset.EchoTime = protocol.echo_time_ms
    dataset.EchoTrainLength = protocol.echo_train
    if protocol.inversion_time_ms is not None:
        dataset.InversionTime = protocol.inversion_time_ms
    if protocol.contrast_agent is not None:
        dataset.ContrastBolusAgent = protocol.contrast_agent
    dataset.MagneticFieldStrength = 3.0


def _multivalued(value: str | tuple[str, ...]) -> str | list[str]:
    return value if isinstance(value, str) else list(value)


def _set_plane(dataset: Dataset, protocol: Protocol, affine_lps: Affine, k: int) -> None:
    column, row, step = (affine_lps[:3, n] for n in range(3))
    dx, dy, dz = protocol.spacing_mm
    dataset.SliceThickness = protocol.thickness_mm
    dataset.SpacingBetweenSlices = dz
    # PS3.3 10.7.1.3: spacing between rows first, then between columns.
    dataset.PixelSpacing = [dy, dx]
    dataset.ImageOrientationPatient = _decimals([*(column / dx), *(row / dy)])
    position = affine_lps[:3, 3] + k * step
    dataset.ImagePositionPatient = _decimals(position)
    dataset.SliceLocation = _decimals([np.dot(position, step / dz)])[0]


def _decimals(values: Sequence[float] | Affine) -> list[str]:
    """Write decimal strings; a DS holds 16 characters."""
    return [f"{value:.9f}"[:16] for value in values]


def _set_pixels(dataset: Dataset, plane: npt.NDArray[np.uint16], window: float) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = plane.shape
    dataset.BitsAllocated = 16
    dataset.BitsStored = 12
    dataset.HighBit = 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter = round(window / 2)
    dataset.WindowWidth = max(round(window), 1)
    dataset.PixelData = np.ascontiguousarray(plane, dtype="<u2").tobytes()

"""MR series of three tiny slices, for tests that care about everything but the pixels."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

SLICES = 3


def mr_series(*, modality: str = "MR", description: str = "T1", study: str = "1") -> list[bytes]:
    """Make a series of three oblique 16x12 slices as DICOM files."""
    series_uid = generate_uid()
    study_uid = generate_uid(entropy_srcs=["study", study])
    frame_uid = generate_uid(entropy_srcs=["frame", study])
    return [
        mr_instance(
            index,
            SeriesInstanceUID=series_uid,
            StudyInstanceUID=study_uid,
            FrameOfReferenceUID=frame_uid,
            Modality=modality,
            SeriesDescription=description,
        )
        for index in range(SLICES)
    ]


def mr_instance(index: int, **values: Any) -> bytes:
    """Make one slice."""
    dataset = Dataset()
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName, dataset.PatientID = "Phantom^Api", "P-1"
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyDate = dataset.StudyTime = dataset.AccessionNumber = dataset.StudyID = ""
    dataset.ReferringPhysicianName = dataset.Manufacturer = ""
    dataset.SeriesNumber, dataset.InstanceNumber = 1, index + 1
    dataset.ImagePositionPatient = [-8.0, -6.0 + 0.6 * index, 10.0 + 0.8 * index]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 0.8, -0.6]
    dataset.PixelSpacing, dataset.SliceThickness = [1.0, 1.0], "1.0"
    dataset.Rows, dataset.Columns = 12, 16
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    pixels = np.arange(12 * 16, dtype="<u2").reshape(12, 16) + index
    dataset.PixelData = pixels.tobytes()
    for name, value in values.items():
        setattr(dataset, name, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def store(files: list[bytes]) -> str:
    """Store a series in the PACS and give its id."""
    from django_queue_app.pacs import get_pacs

    stored = [get_pacs().store_instance(data) for data in files]
    return stored[0].series_id

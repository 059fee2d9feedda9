"""DICOM SEG objects over given sources, written by highdicom, independently of our worker."""

from __future__ import annotations

import io
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

TUMOUR = Code("108369006", "SCT", "Neoplasm")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
BRAIN = Code("12738006", "SCT", "Brain")


def read(data: bytes) -> Dataset:
    return dcmread(io.BytesIO(data))


def encode(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def make_seg(
    sources: Sequence[bytes],
    mask: np.ndarray,
    *,
    kind: str = "BINARY",
    further: Sequence[bytes] = (),
    **options: Any,
) -> bytes:
    """Write a mask over its sources.

    Parameters
    ----------
    sources : sequence of bytes
        Files of the main series, in the order of the mask's first axis.
    mask : (K, R, C) uint8 label map, or float for FRACTIONAL
    """
    numbers = [1] if mask.dtype.kind == "f" else list(range(1, max(1, int(mask.max())) + 1))
    algorithm = hd.AlgorithmIdentificationSequence(
        name="test", family=Code("123110", "DCM", "Artificial Intelligence"), version="1"
    )
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"part {number}",
            segmented_property_category=ABNORMAL,
            segmented_property_type=TUMOUR,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            tracking_uid=generate_uid(),
            tracking_id=f"part-{number}",
            anatomic_regions=[BRAIN],
        )
        for number in numbers
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seg = hd.seg.Segmentation(
            source_images=[read(data) for data in sources],
            pixel_array=mask,
            segmentation_type=kind,
            segment_descriptions=descriptions,
            series_instance_uid=generate_uid(),
            series_number=100,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="test",
            manufacturer_model_name="test",
            software_versions="1",
            device_serial_number="1",
            content_creator_name="Test^Program",
            further_source_images=[read(data) for data in further] or None,
            **options,
        )
    return encode(seg)


def count_dciodvfy_errors(data: bytes, folder: Path) -> list[str]:
    """Give the error lines of Debian's dciodvfy."""
    path = folder / "check.dcm"
    path.write_bytes(data)
    run = subprocess.run(["dciodvfy", str(path)], capture_output=True, check=False)
    text = (run.stdout + run.stderr).decode("utf-8", "replace")
    return [line for line in text.splitlines() if line.startswith("Error")]

"""A series whose every text is a program, for a page that must show it as text."""

from __future__ import annotations

from pathlib import Path

from tests.support.dicom_phantoms import uid
from tests.support.small_series import SLICES, mr_instance

# Where it runs, the page has a `ran` that nobody gave it. DICOM holds 64 characters.
HOSTILE = "<script>ran=1</script><img src=x onerror=ran=1>"
HOSTILE_NAME = "<svg onload=ran=1>^{{7*7}}'\"><b>"


def write_hostile(folder: Path) -> None:
    """Write a series whose every text is a program."""
    folder.mkdir(parents=True)
    for index in range(SLICES):
        data = mr_instance(
            index,
            Modality="MR",
            PatientName=HOSTILE_NAME,
            PatientID=HOSTILE,
            SeriesDescription=HOSTILE,
            StudyDescription=HOSTILE,
            SeriesInstanceUID=uid("hostile series"),
            StudyInstanceUID=uid("hostile study"),
            FrameOfReferenceUID=uid("hostile frame"),
        )
        (folder / f"{index}.dcm").write_bytes(data)

"""Summaries of what an archive on another machine tells of its objects, as the port wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydicom import Dataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.tag import Tag

from django_queue_app.pacs.header import InstanceHeader
from django_queue_app.pacs.ordering import order_instances
from django_queue_app.pacs.port import InstanceSummary, SeriesDescription, SeriesSummary
from django_queue_app.sequence_type import guess_sequence_type

_UTF_8 = "ISO_IR 192"

# What `header_of` looks at, so that only that is converted.
KEYWORDS = (
    "PatientID",
    "PatientName",
    "StudyInstanceUID",
    "StudyDate",
    "StudyDescription",
    "SeriesInstanceUID",
    "SeriesDescription",
    "SeriesNumber",
    "Modality",
    "SOPInstanceUID",
    "SOPClassUID",
    "FrameOfReferenceUID",
    "InstanceNumber",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "ProtocolName",
    "SequenceName",
    "ContrastBolusAgent",
    "ScanningSequence",
    "EchoTime",
    "RepetitionTime",
    "InversionTime",
)
_PLANE = ("PlanePositionSequence", "PlaneOrientationSequence")
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


def dataset_of_texts(tags: Mapping[str, Any]) -> Dataset:
    """Make a data set of values by keyword, each a text as it stands in the file.

    Parameters
    ----------
    tags : mapping of str to object
        As Orthanc's `simplify`: texts, and lists of such mappings for sequences. Of functional
        groups only the planes of the first frame are taken over.
    """
    dataset = _texts(tags, KEYWORDS)
    dataset.SpecificCharacterSet = _UTF_8  # the texts were decoded already
    for name in _GROUPS:
        group = _texts_of_group(tags.get(name))
        if group is not None:
            _add(dataset, name, [group])
    return dataset


def _texts_of_group(items: Any) -> Dataset | None:
    if not isinstance(items, list) or not items or not isinstance(items[0], Mapping):
        return None
    group = Dataset()
    for name in _PLANE:
        inner = items[0].get(name)
        if isinstance(inner, list) and inner and isinstance(inner[0], Mapping):
            plane = _texts(inner[0], ("ImagePositionPatient", "ImageOrientationPatient"))
            _add(group, name, [plane])
    return group


def _texts(tags: Mapping[str, Any], names: Sequence[str]) -> Dataset:
    dataset = Dataset()
    for name in names:
        value = tags.get(name)
        if isinstance(value, str):
            _add(dataset, name, _split(name, value))
    return dataset


def _split(name: str, value: str) -> Any:
    parts = value.split("\\") if dictionary_VR(name) in {"DS", "IS", "CS"} else [value]
    return parts if len(parts) > 1 else parts[0]


def _add(dataset: Dataset, name: str, value: Any) -> None:
    tag = Tag(tag_for_keyword(name) or 0)
    vr = dictionary_VR(tag)
    try:
        dataset[tag] = DataElement(tag, vr, value, validation_mode=IGNORE)
    except (TypeError, ValueError, ArithmeticError):
        return  # no number where one should stand: as if it were absent


def instance_summary(
    header: InstanceHeader, *, instance_id: str, size_bytes: int = 0, version: str = ""
) -> InstanceSummary:
    """Return an instance as the port describes it."""
    return InstanceSummary(
        id=instance_id,
        sop_uid=header.sop_uid,
        sop_class_uid=header.sop_class_uid,
        number=header.number,
        position=header.position,
        orientation=header.orientation,
        rows=header.rows,
        columns=header.columns,
        frames=header.frames,
        bytes=size_bytes,
        frame_of_reference_uid=header.frame_of_reference_uid,
        version=version,
    )


def series_summary(
    header: InstanceHeader, *, series_id: str, study_id: str, patient_id: str, slices: int
) -> SeriesSummary:
    """Return a series as the port describes it; the header is one of its instances'."""
    sequence_type, confidence = guess_of(header)
    return SeriesSummary(
        id=series_id,
        study_id=study_id,
        patient_id=patient_id,
        study_uid=header.study_uid,
        series_uid=header.series_uid,
        description=header.series_description,
        modality=header.modality,
        slices=slices,
        sequence_type=sequence_type,
        sequence_confidence=confidence,
        patient_name=header.patient_name,
        patient_dicom_id=header.patient_id,
        study_date=header.study_date,
        study_description=header.study_description,
        series_number=header.series_number,
    )


def guess_of(header: InstanceHeader) -> tuple[str | None, float]:
    """Return sequence type and confidence; only MR has one."""
    return guess_sequence_type(header.hints) if header.modality == "MR" else (None, 0.0)


def description_of(
    summary: SeriesSummary, instances: Sequence[InstanceSummary]
) -> SeriesDescription:
    """Return a description with its instances in order and its slices counted."""
    slices = sum(one.frames for one in instances)
    return SeriesDescription(
        summary=replace(summary, slices=slices), instances=order_instances(instances)
    )

"""The archive that needs nothing else installed: files by digest, an index in the site's database.

A file is written whole into the site's storage (a disk or a bucket) before its row exists, so that
an instance that is listed can always be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from django.core.files.base import ContentFile
from django.db import DatabaseError, transaction
from django.db.models import QuerySet, Sum

from django_queue_app import site_storage
from django_queue_app.errors import StorageUnavailable
from django_queue_app.pacs import orthanc_ids
from django_queue_app.pacs.header import InstanceHeader, read_header
from django_queue_app.pacs.index import Instance, Series, Study
from django_queue_app.pacs.ordering import order_instances
from django_queue_app.pacs.port import (
    InstanceNotFound,
    InstanceSummary,
    PacsUnavailable,
    SeriesDescription,
    SeriesNotFound,
    SeriesSummary,
    StoredInstance,
)
from django_queue_app.sequence_type import guess_sequence_type


class EmbeddedPacs:
    """The embedded store."""

    is_remote = False

    def list_series(self) -> Sequence[SeriesSummary]:
        """Return every series, newest study first."""
        ordered = _with_counts(Series.objects.all()).order_by(
            "-study__study_date", "study_id", "number", "id"
        )
        return [_summary(series) for series in ordered]

    def describe_series(self, series_id: str) -> SeriesDescription:
        """Return one series with its instances in geometric order."""
        if not orthanc_ids.is_id(series_id):
            raise SeriesNotFound
        series = _with_counts(Series.objects.filter(pk=series_id)).first()
        if series is None:
            raise SeriesNotFound
        instances = order_instances(map(_instance_summary, series.instances.all()))
        return SeriesDescription(summary=_summary(series), instances=instances)

    def series_of_instance(self, instance_id: str) -> str:
        """Return the id of the series that holds an instance."""
        return _value_of(instance_id, "series_id")

    def read_instance(self, instance_id: str) -> bytes:
        """Return an instance's file."""
        try:
            return site_storage.read_file(_file_name(_value_of(instance_id, "sha256")))
        except StorageUnavailable as error:
            raise PacsUnavailable(
                "A file of the embedded DICOM store can't be read; check the site's storage.",
                "내장 DICOM 저장소의 파일을 읽을 수 없습니다. 사이트의 저장소를 확인하십시오.",
            ) from error

    def read_series(self, series: SeriesDescription) -> Iterator[tuple[str, bytes]]:
        """Yield id and file of every instance."""
        for one in series.instances:
            yield one.id, self.read_instance(one.id)

    def store_instance(self, data: bytes) -> StoredInstance:
        """Keep an instance; of two contents under one SOP Instance UID the first stays."""
        header = read_header(data)
        sha256 = hashlib.sha256(data).hexdigest()
        known = Instance.objects.filter(pk=header.instance_key).values_list("sha256", flat=True)
        present = known.first()
        if present is None:
            _write_file(sha256, data)
            present, is_new = _index(header, sha256, len(data))
        else:
            is_new = False
        return StoredInstance(
            instance_id=header.instance_key,
            series_id=header.series_key,
            is_new=is_new,
            is_conflicting=present != sha256,
        )

    def find_series(self, series_uid: str) -> str | None:
        """Return the id of the series with this UID, or None."""
        found = Series.objects.filter(series_uid=series_uid).values_list("id", flat=True)
        return found.order_by("created_at", "id").first()

    def check(self) -> None:
        """Return if storage and index can be used."""
        try:
            site_storage.check()
            Instance.objects.exists()
        except (StorageUnavailable, DatabaseError) as error:
            raise _unusable() from error


def _value_of(instance_id: str, field: str) -> str:
    if not orthanc_ids.is_id(instance_id):
        raise InstanceNotFound
    found = Instance.objects.filter(pk=instance_id).values_list(field, flat=True).first()
    if found is None:
        raise InstanceNotFound
    return str(found)


def _file_name(sha256: str) -> str:
    """Return the name of the file with this digest; folders of a few thousand stay quick."""
    return f"dicom/{sha256[:2]}/{sha256[2:4]}/{sha256}.dcm"


def _unusable() -> PacsUnavailable:
    return PacsUnavailable(
        "The embedded DICOM store can't be used; check the site's storage.",
        "내장 DICOM 저장소를 사용할 수 없습니다. 사이트의 저장소를 확인하십시오.",
    )


def _write_file(sha256: str, data: bytes) -> None:
    try:
        site_storage.write_file(_file_name(sha256), ContentFile(data))
    except StorageUnavailable as error:
        raise PacsUnavailable(
            "The embedded DICOM store can't write; check the storage's space and permissions.",
            "내장 DICOM 저장소에 쓸 수 없습니다. 저장소의 공간과 권한을 확인하십시오.",
        ) from error


@transaction.atomic
def _index(header: InstanceHeader, sha256: str, size_bytes: int) -> tuple[str, bool]:
    """Add the rows of an instance; return the digest that the index holds, and whether new."""
    study, _ = Study.objects.get_or_create(id=header.study_key, defaults=_study_fields(header))
    series, _ = Series.objects.get_or_create(
        id=header.series_key, defaults={"study": study, **_series_fields(header)}
    )
    instance, is_new = Instance.objects.get_or_create(
        id=header.instance_key,
        defaults={
            "series": series,
            "sha256": sha256,
            "size_bytes": size_bytes,
            **_instance_fields(header),
        },
    )
    return instance.sha256, is_new


def _study_fields(header: InstanceHeader) -> dict[str, Any]:
    return {
        "patient_id": header.patient_key,
        "study_uid": header.study_uid,
        "patient_dicom_id": header.patient_id.replace("\0", ""),
        "patient_name": header.patient_name,
        "study_date": header.study_date,
        "description": header.study_description,
    }


def _series_fields(header: InstanceHeader) -> dict[str, Any]:
    sequence_type, confidence = None, 0.0
    if header.modality == "MR":
        sequence_type, confidence = guess_sequence_type(header.hints)
    return {
        "series_uid": header.series_uid,
        "modality": header.modality,
        "description": header.series_description,
        "number": header.series_number,
        "sequence_type": sequence_type or "",
        "sequence_confidence": confidence,
    }


def _instance_fields(header: InstanceHeader) -> dict[str, Any]:
    return {
        "sop_uid": header.sop_uid,
        "sop_class_uid": header.sop_class_uid,
        "frame_of_reference_uid": header.frame_of_reference_uid,
        "number": header.number,
        "rows": header.rows,
        "columns": header.columns,
        "frames": header.frames,
        "position": header.position,
        "orientation": header.orientation,
    }


def _with_counts(series: QuerySet[Series]) -> QuerySet[Series]:
    return series.select_related("study").annotate(slice_count=Sum("instances__frames"))


def _summary(series: Series) -> SeriesSummary:
    study = series.study
    return SeriesSummary(
        id=series.id,
        study_id=study.id,
        patient_id=study.patient_id,
        study_uid=study.study_uid,
        series_uid=series.series_uid,
        description=series.description,
        modality=series.modality,
        slices=getattr(series, "slice_count", 0) or 0,
        sequence_type=series.sequence_type or None,
        sequence_confidence=series.sequence_confidence,
        patient_name=study.patient_name,
        patient_dicom_id=study.patient_dicom_id,
        study_date=study.study_date,
        study_description=study.description,
        series_number=series.number,
    )


def _instance_summary(instance: Instance) -> InstanceSummary:
    return InstanceSummary(
        id=instance.id,
        sop_uid=instance.sop_uid,
        sop_class_uid=instance.sop_class_uid,
        number=instance.number,
        position=tuple(instance.position) if instance.position else None,
        orientation=tuple(instance.orientation) if instance.orientation else None,
        rows=instance.rows,
        columns=instance.columns,
        frames=instance.frames,
        bytes=instance.size_bytes,
        sha256=instance.sha256,
        frame_of_reference_uid=instance.frame_of_reference_uid,
    )

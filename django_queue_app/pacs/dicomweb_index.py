"""From ids back to UIDs, for archives that know no ids. The tables are in `index`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django_queue_app import last_use
from django_queue_app.pacs import orthanc_ids
from django_queue_app.pacs.header import InstanceHeader
from django_queue_app.pacs.index import RemoteInstance, RemoteSeries
from django_queue_app.pacs.port import InstanceNotFound, SeriesNotFound

_CHUNK = 500


@dataclass(frozen=True, kw_only=True)
class SeriesPlace:
    """The UIDs of a series."""

    study_uid: str
    series_uid: str


@dataclass(frozen=True, kw_only=True)
class InstancePlace:
    """The UIDs of an instance, and the id of its series."""

    series_id: str
    study_uid: str
    series_uid: str
    sop_uid: str

    @property
    def path(self) -> str:
        """Where WADO-RS has it."""
        return f"/studies/{self.study_uid}/series/{self.series_uid}/instances/{self.sop_uid}"


def place_of(header: InstanceHeader) -> InstancePlace:
    """Return the UIDs of an instance by its header."""
    return InstancePlace(
        series_id=header.series_key,
        study_uid=header.study_uid,
        series_uid=header.series_uid,
        sop_uid=header.sop_uid,
    )


def find_series(series_id: str) -> SeriesPlace:
    """Return the UIDs of a series. Raises SeriesNotFound."""
    row = None
    if orthanc_ids.is_id(series_id):
        row = RemoteSeries.objects.filter(pk=series_id).first()
    if row is None:
        raise SeriesNotFound
    last_use.touch(RemoteSeries, [row])
    return SeriesPlace(study_uid=row.study_uid, series_uid=row.series_uid)


def find_instance(instance_id: str) -> InstancePlace:
    """Return the UIDs of an instance of a series that was described. Raises InstanceNotFound."""
    row = None
    if orthanc_ids.is_id(instance_id):
        rows = RemoteInstance.objects.select_related("series")
        row = rows.filter(pk=instance_id).first()
    if row is None:
        raise InstanceNotFound
    return InstancePlace(
        series_id=row.series_id,
        study_uid=row.series.study_uid,
        series_uid=row.series.series_uid,
        sop_uid=row.sop_uid,
    )


def remember_series(headers: Iterable[InstanceHeader]) -> None:
    """Keep the UIDs of series; what is known already costs one look."""
    by_id = {one.series_key: one for one in headers}
    ids = list(by_id)
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        known = RemoteSeries.objects.in_bulk(chunk)
        last_use.touch(RemoteSeries, known.values())
        fresh = [one for one in chunk if one not in known]
        if fresh:
            RemoteSeries.objects.bulk_create(
                [
                    RemoteSeries(
                        id=one, study_uid=by_id[one].study_uid, series_uid=by_id[one].series_uid
                    )
                    for one in fresh
                ],
                ignore_conflicts=True,
            )


def remember(series_id: str, headers: Sequence[InstanceHeader]) -> None:
    """Keep the UIDs of instances of one series, and its own."""
    remember_series(headers[:1])
    known = set(RemoteInstance.objects.filter(series_id=series_id).values_list("pk", flat=True))
    fresh = [one for one in headers if one.instance_key not in known]
    if fresh:
        RemoteInstance.objects.bulk_create(
            [
                RemoteInstance(id=one.instance_key, series_id=series_id, sop_uid=one.sop_uid)
                for one in fresh
            ],
            ignore_conflicts=True,
            batch_size=_CHUNK,
        )

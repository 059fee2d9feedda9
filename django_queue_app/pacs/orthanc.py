"""Orthanc behind the port, by its REST API.

Orthanc's ids are the port's, so nothing is kept here but what a series was found to hold, for as
long as Orthanc says that the series has not changed.

References
----------
https://orthanc.uclouvain.be/book/users/rest.html
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django_queue_app.conf import conf
from django_queue_app.errors import ServiceError
from django_queue_app.pacs import orthanc_ids
from django_queue_app.pacs.bounded import Bounded, in_parallel
from django_queue_app.pacs.connection import (
    CHECK_TIMEOUT_S,
    Connection,
    errors_translated,
    mappings_of,
    open_session,
)
from django_queue_app.pacs.header import InstanceHeader, header_of, read_header
from django_queue_app.pacs.port import (
    InstanceNotFound,
    PacsBadAnswer,
    SeriesDescription,
    SeriesNotFound,
    SeriesSummary,
    StoredInstance,
    StoreRefused,
)
from django_queue_app.pacs.remote_header import (
    dataset_of_texts,
    description_of,
    instance_summary,
    series_summary,
)

# `LastUpdate` counts whole seconds of Orthanc's own clock: two changes within one look the same.
SETTLED_AFTER = timedelta(seconds=3)
# How long a list may look into series that it has not seen before; the others are listed by what
# Orthanc's database has of them.
LOOK_INTO_S = 3.0

_REFUSALS = frozenset({400, 406, 409, 413, 415, 422})


class OrthancPacs:
    """Orthanc."""

    is_remote = True

    def __init__(self, connection: Connection) -> None:
        self._url = connection.url
        self._session = open_session(connection)
        self._described: Bounded[str, tuple[Any, SeriesDescription]] = Bounded(64)
        self._headers: Bounded[str, InstanceHeader] = Bounded(20_000)
        self._series_of: Bounded[str, str] = Bounded(100_000)

    def list_series(self) -> Sequence[SeriesSummary]:
        """Return every series, newest study first."""
        studies = {one["ID"]: one for one in self._find("Study")}
        found = [one for one in self._find("Series") if one.get("ParentStudy") in studies]
        self._look_into(found)
        listed = [self._summary(one, studies[one["ParentStudy"]]) for one in found]
        by_number = sorted(listed, key=_place_in_study)
        return sorted(by_number, key=lambda one: one.study_date, reverse=True)

    def describe_series(self, series_id: str) -> SeriesDescription:
        """Return one series with its instances in geometric order."""
        if not orthanc_ids.is_id(series_id):
            raise SeriesNotFound
        series = self._json(f"/series/{series_id}", missing=SeriesNotFound)
        state = (series.get("LastUpdate"), tuple(series.get("Instances", ())))
        kept = self._described.get(series_id)
        if kept is not None and kept[0] == state:
            return kept[1]
        description = self._read_description(series)
        if _is_settled(str(series.get("LastUpdate", ""))):
            self._described.keep(series_id, (state, description))
        return description

    def series_of_instance(self, instance_id: str) -> str:
        """Return the id of the series that holds an instance."""
        if not orthanc_ids.is_id(instance_id):
            raise InstanceNotFound
        known = self._series_of.get(instance_id)
        if known is None:
            found = self._json(f"/instances/{instance_id}", missing=InstanceNotFound)
            known = str(found.get("ParentSeries", ""))
            # For good: the id is a digest of the series' UID, too.
            self._series_of.keep(instance_id, known)
        return known

    def read_instance(self, instance_id: str) -> bytes:
        """Return an instance's file."""
        if not orthanc_ids.is_id(instance_id):
            raise InstanceNotFound
        return self._get(f"/instances/{instance_id}/file", missing=InstanceNotFound)

    def read_series(self, series: SeriesDescription) -> Iterator[tuple[str, bytes]]:
        """Yield id and file of every instance, over several connections at once."""
        ids = [one.id for one in series.instances]
        return in_parallel(lambda one: (one, self.read_instance(one)), ids)

    def store_instance(self, data: bytes) -> StoredInstance:
        """Keep an instance; of two contents under one SOP Instance UID the first stays."""
        header = read_header(data)
        present = self._present(header.instance_key, data)
        if present is not None:
            return _stored(header, is_new=False, is_conflicting=not present)
        answer = self._post_instance(data)
        if answer.get("Status") != "AlreadyStored":
            return _stored(header, is_new=True)
        # Somebody else stored one in between: Orthanc has dropped ours without a word.
        present = self._present(header.instance_key, data)
        return _stored(header, is_new=False, is_conflicting=not present)

    def find_series(self, series_uid: str) -> str | None:
        """Return the id of the series with this UID, or None; the first if patients share it."""
        with errors_translated():
            response = self._session.post(f"{self._url}/tools/lookup", data=series_uid.encode())
            response.raise_for_status()
            found = mappings_of(response.json())
        return min((one["ID"] for one in found if one.get("Type") == "Series"), default=None)

    def check(self) -> None:
        """Return if Orthanc answers and takes the credentials."""
        with errors_translated():
            response = self._session.get(f"{self._url}/system", timeout=CHECK_TIMEOUT_S)
            response.raise_for_status()
            if '"ApiVersion"' not in response.text:
                raise PacsBadAnswer

    def _get(self, path: str, *, missing: type[ServiceError]) -> bytes:
        with errors_translated():
            response = self._session.get(self._url + path)
            if response.status_code == 404:
                raise missing
            response.raise_for_status()
            return response.content

    def _json(self, path: str, *, missing: type[ServiceError]) -> Any:
        with errors_translated():
            response = self._session.get(self._url + path)
            if response.status_code == 404:
                raise missing
            response.raise_for_status()
            return response.json()

    def _find(self, level: str) -> list[dict[str, Any]]:
        query = {"StudyDate": f"{_first_day():%Y%m%d}-"} if conf.pacs_list_days else {}
        body = {"Level": level, "Query": query, "Expand": True}
        with errors_translated():
            response = self._session.post(f"{self._url}/tools/find", json=body)
            response.raise_for_status()
            return mappings_of(response.json())

    def _look_into(self, found: Sequence[Mapping[str, Any]]) -> None:
        """Read the header of one instance of each series that was not looked into before."""
        end = time.monotonic() + LOOK_INTO_S
        firsts = [one["Instances"][0] for one in found if one.get("Instances")]
        fresh = [first for first in firsts if self._headers.get(first) is None]

        def look(instance_id: str) -> None:
            if time.monotonic() < end:
                self._header_of(instance_id)

        for _ in in_parallel(look, fresh):
            pass

    def _header_of(self, instance_id: str) -> InstanceHeader | None:
        """Return the header of an instance, None if it is gone; it never changes under its id."""
        known = self._headers.get(instance_id)
        if known is None:
            path = f"/instances/{instance_id}/simplified-tags"
            try:
                known = header_of(dataset_of_texts(self._json(path, missing=InstanceNotFound)))
            except InstanceNotFound:
                return None
            self._headers.keep(instance_id, known)
        return known

    def _summary(self, series: Mapping[str, Any], study: Mapping[str, Any]) -> SeriesSummary:
        instances = series.get("Instances", [])
        header = self._headers.get(instances[0]) if instances else None
        if header is None:
            header = header_of(
                dataset_of_texts(
                    {
                        **study.get("PatientMainDicomTags", {}),
                        **study.get("MainDicomTags", {}),
                        **series.get("MainDicomTags", {}),
                    }
                )
            )
        if header.frames > 1 and len(instances) > 1:
            return self.describe_series(series["ID"]).summary
        return _summary_of(header, series, study, len(instances) * header.frames)

    def _read_description(self, series: Mapping[str, Any]) -> SeriesDescription:
        path = f"/series/{series['ID']}"
        study = self._json(f"{path}/study", missing=SeriesNotFound)
        listed = self._json(f"{path}/instances?expand", missing=SeriesNotFound)
        tags = self._json(f"{path}/instances-tags?simplify", missing=SeriesNotFound)
        headers = {key: header_of(dataset_of_texts(value)) for key, value in tags.items()}
        instances = [
            instance_summary(
                headers[one["ID"]],
                instance_id=one["ID"],
                size_bytes=int(one.get("FileSize", 0)),
                version=str(one.get("FileUuid", "")),
            )
            for one in listed
            if one["ID"] in headers
        ]
        if not instances:
            raise SeriesNotFound  # deleted between the calls
        for one in instances:
            self._series_of.keep(one.id, str(series["ID"]))
        first = next((headers[one] for one in series["Instances"] if one in headers), None)
        summary = _summary_of(first or headers[instances[0].id], series, study, len(instances))
        return description_of(summary, instances)

    def _present(self, instance_id: str, data: bytes) -> bool | None:
        """Tell whether Orthanc's object of this id has these bytes; None if it has none."""
        path = f"/instances/{instance_id}"
        try:
            md5 = self._get(f"{path}/attachments/dicom/md5", missing=InstanceNotFound)
        except InstanceNotFound:
            try:  # an Orthanc can be told to keep no digests
                return self._get(f"{path}/file", missing=InstanceNotFound) == data
            except InstanceNotFound:
                return None
        return (
            md5.decode("ascii", "replace") == hashlib.md5(data, usedforsecurity=False).hexdigest()
        )

    def _post_instance(self, data: bytes) -> Mapping[str, Any]:
        with errors_translated():
            response = self._session.post(
                f"{self._url}/instances", data=data, headers={"Content-Type": "application/dicom"}
            )
            if response.status_code in _REFUSALS:
                raise StoreRefused
            response.raise_for_status()
            answer: Mapping[str, Any] = response.json()
        if answer.get("Status") not in {"Success", "AlreadyStored"}:
            raise StoreRefused  # "FilteredOut": a rule of its operator
        return answer


def _first_day() -> date:
    return datetime.now(UTC).date() - timedelta(days=conf.pacs_list_days)


def _place_in_study(one: SeriesSummary) -> tuple[str, float, str]:
    number = one.series_number if one.series_number is not None else float("inf")
    return one.study_id, number, one.id


def _is_settled(last_update: str) -> bool:
    try:
        changed = datetime.strptime(last_update, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return False
    return datetime.now(UTC) - changed > SETTLED_AFTER


def _summary_of(
    header: InstanceHeader, series: Mapping[str, Any], study: Mapping[str, Any], slices: int
) -> SeriesSummary:
    return series_summary(
        header,
        series_id=str(series["ID"]),
        study_id=str(study["ID"]),
        patient_id=str(study.get("ParentPatient", "")),
        slices=slices,
    )


def _stored(
    header: InstanceHeader, *, is_new: bool, is_conflicting: bool = False
) -> StoredInstance:
    return StoredInstance(
        instance_id=header.instance_key,
        series_id=header.series_key,
        is_new=is_new,
        is_conflicting=is_conflicting,
    )

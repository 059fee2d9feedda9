"""Any DICOMweb server behind the port: QIDO-RS to find, WADO-RS to read, STOW-RS to store.

Such a server knows UIDs and no ids. Ids are computed as Orthanc does, and an index in the site's
database leads from them back to the UIDs.

References
----------
DICOM PS3.18 10.4 (retrieve), 10.5 (store), 10.6 (search)
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from pydicom.datadict import keyword_for_tag

from django_queue_app.conf import conf
from django_queue_app.pacs import dicomweb_index as index
from django_queue_app.pacs.bounded import Bounded, in_parallel
from django_queue_app.pacs.connection import (
    CHECK_TIMEOUT_S,
    Connection,
    errors_translated,
    mappings_of,
    open_session,
)
from django_queue_app.pacs.dicomweb_store import holds_same, require_taken
from django_queue_app.pacs.header import InstanceHeader, header_of, read_header
from django_queue_app.pacs.multipart import iter_parts, one_part
from django_queue_app.pacs.port import (
    InstanceNotFound,
    PacsBadAnswer,
    PacsUnavailable,
    SeriesDescription,
    SeriesNotFound,
    SeriesSummary,
    StoredInstance,
)
from django_queue_app.pacs.remote_header import (
    dataset_of_texts,
    description_of,
    instance_summary,
    series_summary,
)

# The client library tells each call with its address, and so whose study it is.
logging.getLogger("dicomweb_client").setLevel(logging.WARNING)

DICOM = "application/dicom"
# Without the last part a server may decompress, and fails where it can't.
ACCEPT = f'multipart/related; type="{DICOM}"; transfer-syntax=*'
# A page asks for one slice after the other; the server can't say cheaply what has changed.
DESCRIPTION_GOOD_FOR_S = 15.0
# An id that nobody knows must not cost a search of the whole archive each time.
SEARCH_AGAIN_AFTER_S = 10.0
LOOK_INTO_S = 3.0
# What one search asks for; a server may give fewer, and none is asked for all at once.
_PAGE = 500
_SERIES_FIELDS = [
    *("PatientID", "PatientName", "StudyDate", "StudyDescription", "SeriesDescription"),
    *("SeriesNumber", "Modality", "NumberOfSeriesRelatedInstances"),
]


class DicomWebPacs:
    """A DICOMweb server."""

    is_remote = True

    def __init__(self, connection: Connection) -> None:
        self._url = connection.url
        self._session = open_session(connection)
        self._client = DICOMwebClient(connection.url, session=self._session)
        # Trying again is for the callers: here it would only make a slow archive slower.
        self._client.set_http_retry_params(retry=False)
        self._described: Bounded[str, tuple[float, SeriesDescription]] = Bounded(64)
        self._headers: Bounded[str, InstanceHeader] = Bounded(20_000)
        self._search_from = 0.0

    def list_series(self) -> Sequence[SeriesSummary]:
        """Return every series, newest study first."""
        found = self._search()
        self._look_into([header for header, _ in found])
        looked_into = [self._headers.get(header.series_key) for header, _ in found]
        index.remember_series(one for one in looked_into if one is not None)
        listed = [self._summary(header, count) for header, count in found]
        by_number = sorted(listed, key=_place_in_study)
        return sorted(by_number, key=lambda one: one.study_date, reverse=True)

    def describe_series(self, series_id: str) -> SeriesDescription:
        """Return one series with its instances in geometric order."""
        kept = self._described.get(series_id)
        if kept is not None and time.monotonic() < kept[0]:
            return kept[1]
        description = self._read_description(series_id)
        good_until = time.monotonic() + DESCRIPTION_GOOD_FOR_S
        self._described.keep(series_id, (good_until, description))
        return description

    def series_of_instance(self, instance_id: str) -> str:
        """Return the id of the series that holds an instance."""
        return index.find_instance(instance_id).series_id

    def read_instance(self, instance_id: str) -> bytes:
        """Return an instance's file."""
        place = index.find_instance(instance_id)
        (data,) = self._retrieve(place.path) or (b"",)
        if not data:
            raise PacsBadAnswer
        return data

    def read_series(self, series: SeriesDescription) -> Iterator[tuple[str, bytes]]:
        """Yield id and file of every instance, from one answer."""
        missing = {one.sop_uid: one.id for one in series.instances}
        path = f"/studies/{series.summary.study_uid}/series/{series.summary.series_uid}"
        for data in self._iter_retrieved(path):
            instance_id = missing.pop(_sop_uid_of(data), None)
            if instance_id is not None:
                yield instance_id, data
        if missing:
            raise InstanceNotFound

    def store_instance(self, data: bytes) -> StoredInstance:
        """Keep an instance; of two contents under one SOP Instance UID the first stays.

        What the server says of it is not believed: some say 200 to what they drop.
        """
        header = read_header(data)
        place = index.place_of(header)
        is_new = not self._has(place)
        if is_new:
            self._send(data)
            self._described.forget(header.series_key)
        index.remember(header.series_key, [header])
        try:
            (present,) = self._retrieve(place.path)
        except InstanceNotFound as error:
            raise PacsUnavailable(
                "The image archive took an object and does not have it; it is sent again later.",
                "영상 저장소가 객체를 받았으나 보관하지 않았습니다. 나중에 다시 보냅니다.",
            ) from error
        return StoredInstance(
            instance_id=header.instance_key,
            series_id=header.series_key,
            is_new=is_new,
            is_conflicting=not holds_same(present, data),
        )

    def find_series(self, series_uid: str) -> str | None:
        """Return the id of the series with this UID, or None; the first if patients share it."""
        filters = {"SeriesInstanceUID": series_uid}
        return min((header.series_key for header, _ in self._search(filters)), default=None)

    def check(self) -> None:
        """Return if the server answers a search and takes the credentials."""
        with errors_translated():
            response = self._session.get(
                f"{self._url}/studies",
                params={"limit": "1"},
                headers={"Accept": "application/dicom+json"},
                timeout=CHECK_TIMEOUT_S,
            )
            response.raise_for_status()
            if response.status_code != 204:
                mappings_of(response.json())

    def _search(self, filters: Mapping[str, str] | None = None) -> list[tuple[InstanceHeader, int]]:
        """Return header and count of instances of each series, and keep them in the index."""
        wanted = dict(filters or {})
        if not wanted and conf.pacs_list_days:
            first_day = datetime.now(UTC).date() - timedelta(days=conf.pacs_list_days)
            wanted["StudyDate"] = f"{first_day:%Y%m%d}-"
        texts = [texts_of_json(one) for one in self._search_pages(wanted)]
        headers = [header_of(dataset_of_texts(one)) for one in texts]
        usable = [
            (header, _count(one))
            for header, one in zip(headers, texts, strict=True)
            if header.study_uid and header.series_uid
        ]
        index.remember_series([header for header, _ in usable])
        return usable

    def _search_pages(self, filters: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield page after page; a server that knows no pages gives the same one again."""
        seen: set[str] = set()
        while True:
            with errors_translated():
                page = mappings_of(
                    self._client.search_for_series(
                        fields=_SERIES_FIELDS,
                        search_filters=dict(filters),
                        limit=_PAGE,
                        offset=len(seen),
                    )
                )
            fresh = {json.dumps(one): one for one in page}
            yield from (one for key, one in fresh.items() if key not in seen)
            if len(page) < _PAGE or fresh.keys() <= seen:
                return
            seen |= fresh.keys()

    def _look_into(self, series: Sequence[InstanceHeader]) -> None:
        """Read the header of one instance of each series that was not looked into before."""
        end = time.monotonic() + LOOK_INTO_S
        fresh = [one for one in series if self._headers.get(one.series_key) is None]

        def look(one: InstanceHeader) -> None:
            if time.monotonic() < end:
                self._look_into_one(one)

        for _ in in_parallel(look, fresh):
            pass

    def _look_into_one(self, series: InstanceHeader) -> None:
        """Read one instance's metadata: searches may spell names and PatientIDs in Latin-1."""
        place = series.study_uid, series.series_uid
        try:
            with errors_translated():
                (found,) = self._client.search_for_instances(*place, limit=1)
                sop_uid = str(texts_of_json(found)["SOPInstanceUID"])
                metadata = self._client.retrieve_instance_metadata(*place, sop_uid)
        except (PacsBadAnswer, ValueError, LookupError, AttributeError):
            return  # deleted in between, or not told: listed by what the search said
        self._headers.keep(series.series_key, header_of(dataset_of_texts(texts_of_json(metadata))))

    def _summary(self, header: InstanceHeader, count: int) -> SeriesSummary:
        looked_into = self._headers.get(header.series_key)
        frames = looked_into.frames if looked_into else 1
        if looked_into and frames > 1 and count > 1:
            return self.describe_series(looked_into.series_key).summary
        return _summary_of(looked_into or header, count * frames)

    def _read_description(self, series_id: str) -> SeriesDescription:
        place = self._find_series(series_id)
        try:
            with errors_translated():
                found = mappings_of(
                    self._client.retrieve_series_metadata(place.study_uid, place.series_uid)
                )
        except PacsBadAnswer as error:
            if _status_of(error) in {400, 404}:
                raise SeriesNotFound from error
            raise
        headers = [header_of(dataset_of_texts(texts_of_json(one))) for one in found]
        # Two patients may share the UIDs; an id belongs to one of them.
        own = [header for header in headers if header.series_key == series_id]
        if not own:
            raise SeriesNotFound
        index.remember(series_id, own)
        instances = [instance_summary(header, instance_id=header.instance_key) for header in own]
        return description_of(_summary_of(own[0], len(own)), instances)

    def _find_series(self, series_id: str) -> index.SeriesPlace:
        try:
            return index.find_series(series_id)
        except SeriesNotFound:
            if time.monotonic() < self._search_from:
                raise
        self._search_from = time.monotonic() + SEARCH_AGAIN_AFTER_S
        self._search()
        return index.find_series(series_id)

    def _has(self, place: index.InstancePlace) -> bool:
        try:
            return bool(self._retrieve(place.path))
        except InstanceNotFound:
            return False

    def _retrieve(self, path: str) -> list[bytes]:
        return list(self._iter_retrieved(path))

    def _iter_retrieved(self, path: str) -> Iterator[bytes]:
        with errors_translated():
            response = self._session.get(self._url + path, headers={"Accept": ACCEPT}, stream=True)
            with response:
                if response.status_code == 404:
                    raise InstanceNotFound
                response.raise_for_status()
                kind = response.headers.get("Content-Type", "")
                yield from iter_parts(response.iter_content(), kind)

    def _send(self, data: bytes) -> None:
        body, content_type = one_part(data, DICOM)
        with errors_translated():
            response = self._session.post(
                f"{self._url}/studies",
                data=body,
                headers={"Content-Type": content_type, "Accept": "application/dicom+json"},
            )
            require_taken(response)


def texts_of_json(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by keyword as texts of a DICOM JSON object; items of sequences likewise.

    References
    ----------
    DICOM PS3.18 F
    """
    texts: dict[str, Any] = {}
    for tag, element in item.items():
        keyword = keyword_for_tag(tag) if isinstance(element, Mapping) else ""
        if keyword and isinstance(values := element.get("Value"), list):
            if element.get("vr") == "SQ":
                texts[keyword] = [texts_of_json(one) for one in values if isinstance(one, Mapping)]
            else:
                texts[keyword] = "\\".join(map(_text_of, values))
    return texts


def _text_of(value: Any) -> str:
    if isinstance(value, Mapping):  # a name
        return str(value.get("Alphabetic") or value.get("Ideographic") or "")
    return "" if value is None else str(value)


def _count(texts: Mapping[str, Any]) -> int:
    text = str(texts.get("NumberOfSeriesRelatedInstances", ""))
    return int(text) if text.isdigit() else 1


def _sop_uid_of(data: bytes) -> str:
    try:
        found = dcmread(io.BytesIO(data), specific_tags=["SOPInstanceUID"], stop_before_pixels=True)
        return str(found.SOPInstanceUID)
    except Exception:  # pydicom raises nearly anything on what is no DICOM
        return ""


def _status_of(error: PacsBadAnswer) -> int:
    cause = error.__cause__
    is_http = isinstance(cause, requests.HTTPError) and cause.response is not None
    return cause.response.status_code if is_http else 0  # type: ignore[union-attr]


def _place_in_study(one: SeriesSummary) -> tuple[str, float, str]:
    number = one.series_number if one.series_number is not None else float("inf")
    return one.study_id, number, one.id


def _summary_of(header: InstanceHeader, slices: int) -> SeriesSummary:
    return series_summary(
        header,
        series_id=header.series_key,
        study_id=header.study_key,
        patient_id=header.patient_key,
        slices=slices,
    )

"""What the site needs of an archive of DICOM objects, and the values it answers with.

Every id is Orthanc's (five groups of eight hexadecimal digits), whatever stands behind the port, so
that a page works the same against the embedded store, Orthanc or a DICOMweb server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from django_queue_app.errors import ServiceError

Vector3 = tuple[float, float, float]
Cosines = tuple[float, float, float, float, float, float]


class SeriesNotFound(ServiceError):
    """No series has this id."""

    code = "series_not_found"
    http_status = 404
    default_message = "There is no series with this id; import it first or check the id."
    default_message_ko = "해당 ID의 시리즈가 없습니다. 먼저 가져오거나 ID를 확인하십시오."


class InstanceNotFound(ServiceError):
    """No instance has this id."""

    code = "instance_not_found"
    http_status = 404
    default_message = "There is no instance with this id; import it first or check the id."
    default_message_ko = "해당 ID의 인스턴스가 없습니다. 먼저 가져오거나 ID를 확인하십시오."


class PacsUnavailable(ServiceError):
    """The archive does not answer, or not as it should."""

    code = "pacs_unavailable"
    http_status = 503
    default_message = "The image archive does not answer; try again, or ask who operates it."
    default_message_ko = "영상 저장소가 응답하지 않습니다. 다시 시도하거나 관리자에게 문의하십시오."


class PacsTooSlow(PacsUnavailable):
    """The archive began to answer, or not even that, and did not finish in time."""

    code = "pacs_too_slow"
    default_message = (
        "The image archive takes too long to answer; try again later, or ask who operates it."
    )
    default_message_ko = (
        "영상 저장소의 응답이 너무 느립니다. 나중에 다시 시도하거나 관리자에게 문의하십시오."
    )


class PacsCredentialsRefused(PacsUnavailable):
    """The archive does not accept the site's credentials."""

    code = "pacs_credentials_refused"
    http_status = 502
    default_message = (
        "The image archive refuses the site's credentials; correct SEGMENTATION_PACS_USER, "
        "SEGMENTATION_PACS_PASSWORD or SEGMENTATION_PACS_TOKEN."
    )
    default_message_ko = (
        "영상 저장소가 사이트의 인증 정보를 거부합니다. SEGMENTATION_PACS_USER, "
        "SEGMENTATION_PACS_PASSWORD 또는 SEGMENTATION_PACS_TOKEN을 수정하십시오."
    )


class PacsBadAnswer(PacsUnavailable):
    """Something answers, but not as such an archive does."""

    code = "pacs_bad_answer"
    http_status = 502
    default_message = (
        "The image archive answers in a way that can't be understood; check SEGMENTATION_PACS "
        "and SEGMENTATION_PACS_URL, and any proxy in between."
    )
    default_message_ko = (
        "영상 저장소의 응답을 이해할 수 없습니다. SEGMENTATION_PACS와 SEGMENTATION_PACS_URL, "
        "중간의 프록시를 확인하십시오."
    )


class StoreRefused(ServiceError):
    """The archive will not take this object, however often it is asked."""

    code = "pacs_refused"
    http_status = 502
    default_message = (
        "The image archive refuses this object; ask who operates it to accept DICOM segmentations."
    )
    default_message_ko = (
        "영상 저장소가 이 객체를 거부합니다. DICOM SEG를 받을 수 있도록 관리자에게 요청하십시오."
    )


class InvalidInstance(ServiceError):
    """The bytes are no DICOM instance that an archive can keep."""

    code = "invalid_instance"
    http_status = 422
    default_message = "This is not a complete DICOM instance; export it again and send that."
    default_message_ko = "완전한 DICOM 인스턴스가 아닙니다. 다시 내보내서 보내십시오."


class ConflictingInstance(ServiceError):
    """The archive has another object under the same SOP Instance UID and kept that one."""

    code = "conflicting_instance"
    http_status = 409
    default_message = (
        "The archive holds different content under this SOP Instance UID and keeps it; "
        "delete that instance there first if the new one is right."
    )
    default_message_ko = (
        "저장소에 같은 SOP Instance UID로 다른 내용이 이미 있어 그것을 유지합니다. "
        "새 인스턴스가 맞다면 저장소에서 기존 것을 먼저 삭제하십시오."
    )


@dataclass(frozen=True, kw_only=True)
class InstanceSummary:
    """One instance of a series, as far as its header tells.

    `position` is ImagePositionPatient and `orientation` ImageOrientationPatient (LPS, mm and
    direction cosines of a row, then of a column); None where absent or unreadable. Of an enhanced
    multi-frame object they are those of its first frame. `version` is another one as soon as the
    archive holds other content under this id; empty where the archive can't tell. `bytes` is 0
    where only reading the instance would tell.
    """

    id: str
    sop_uid: str
    sop_class_uid: str
    number: int | None
    position: Vector3 | None
    orientation: Cosines | None
    rows: int
    columns: int
    frames: int
    bytes: int
    sha256: str = ""
    frame_of_reference_uid: str = ""
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class SeriesSummary:
    """One series; `id`, `study_id` and `patient_id` are Orthanc ids.

    `slices` counts frames for multi-frame objects, else instances. `sequence_type` is one of T1,
    T1c, T2, FLAIR, DCE or None, guessed with `sequence_confidence` from 0 to 1.
    """

    id: str
    study_id: str
    patient_id: str
    study_uid: str
    series_uid: str
    description: str
    modality: str
    slices: int
    sequence_type: str | None
    sequence_confidence: float
    patient_name: str
    patient_dicom_id: str
    study_date: str
    study_description: str
    series_number: int | None


@dataclass(frozen=True, kw_only=True)
class SeriesDescription:
    """A series and its instances, ordered along the normal, then by InstanceNumber."""

    summary: SeriesSummary
    instances: tuple[InstanceSummary, ...]


@dataclass(frozen=True, kw_only=True)
class StoredInstance:
    """What became of an instance that was to be stored.

    `is_new` is False where the archive had this SOP Instance UID already; `is_conflicting` says
    that it holds other content under it, which it keeps.
    """

    instance_id: str
    series_id: str
    is_new: bool
    is_conflicting: bool = False


class Pacs(Protocol):
    """An archive of DICOM objects."""

    @property
    def is_remote(self) -> bool:
        """Whether reading means asking another machine, so that what was read is worth keeping."""

    def list_series(self) -> Sequence[SeriesSummary]:
        """Return every series, newest study first.

        Raises
        ------
        PacsUnavailable
        """

    def describe_series(self, series_id: str) -> SeriesDescription:
        """Return one series with its instances in geometric order.

        Raises
        ------
        SeriesNotFound, PacsUnavailable
        """

    def series_of_instance(self, instance_id: str) -> str:
        """Return the id of the series that holds an instance.

        Raises
        ------
        InstanceNotFound, PacsUnavailable
        """

    def read_instance(self, instance_id: str) -> bytes:
        """Return an instance as the DICOM file that was stored.

        Raises
        ------
        InstanceNotFound, PacsUnavailable
        """

    def read_series(self, series: SeriesDescription) -> Iterator[tuple[str, bytes]]:
        """Yield id and file of every instance of a described series, in any order.

        Raises
        ------
        InstanceNotFound
            An instance of the description is gone.
        PacsUnavailable
        """

    def store_instance(self, data: bytes) -> StoredInstance:
        """Keep an instance; storing the same bytes again changes nothing.

        Raises
        ------
        InvalidInstance, PacsUnavailable
        StoreRefused
            The archive will never take it.
        """

    def find_series(self, series_uid: str) -> str | None:
        """Return the id of the series with this SeriesInstanceUID, or None."""

    def check(self) -> None:
        """Return if the archive can be used.

        Raises
        ------
        PacsUnavailable
        """

"""POST /api/mri/dicom/: one instance, several as a form, or a zip, into the archive."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest, HttpResponse
from django.http.multipartparser import MultiPartParserError
from ninja import Router, Schema

from django_queue_app.api.auth import FRONT_END
from django_queue_app.api.document import answers, extra
from django_queue_app.api.encode import json_answer
from django_queue_app.api.errors import BodyTooLarge, error_response, language_of
from django_queue_app.conf import conf
from django_queue_app.errors import ServiceError
from django_queue_app.pacs import get_pacs
from django_queue_app.pacs.intake import MAX_INSTANCE_BYTES, Intake, Report, is_zip

router = Router(auth=FRONT_END, tags=["DICOM"])

CHUNK_BYTES = 1 << 16
IN_MEMORY_BYTES = 8 << 20
MULTIPART = "multipart/form-data"
DICOM_TYPES = frozenset({"application/dicom", "application/octet-stream"})
ZIP_TYPES = frozenset({"application/zip", "application/x-zip-compressed"})

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
    }
}


class MediaTypeUnsupported(ServiceError):
    """The body is of a type that this call doesn't read."""

    code = "unsupported_media_type"
    http_status = 415
    default_message = "Send application/dicom, application/zip or multipart/form-data with files."
    default_message_ko = (
        "application/dicom, application/zip 또는 파일을 담은 multipart/form-data로 보내십시오."
    )


class BodyUnreadable(ServiceError):
    """The body is empty, cut short, or no form."""

    code = "bad_body"
    http_status = 400
    default_message = (
        "The body is empty or can't be read; send the file's bytes or a form of files."
    )
    default_message_ko = "본문이 비어 있거나 읽을 수 없습니다. 파일 내용을 보내십시오."


class NothingStored(ServiceError):
    """Not one file of the body could be kept."""

    code = "nothing_stored"
    http_status = 422
    default_message = "The body holds no DICOM instance; see problems."
    default_message_ko = "DICOM 인스턴스가 없습니다. problems를 확인하십시오."


class FileProblem(Schema):
    """A file that was not taken; `index` counts files from 1."""

    index: int
    name: str
    code: str
    error: str


class TakenSeries(Schema):
    """A series that instances went into."""

    id: str
    instances: int


class Taken(Schema):
    """What became of the files; `conflicting` ones keep the archive's earlier content."""

    success: bool
    stored: int
    already_stored: int
    conflicting: int
    refused: int
    skipped: int
    series: list[TakenSeries]
    instance_ids: list[str]
    problems: list[FileProblem]


class Refused(Schema):
    """Why the body was refused; `problems` names its files where there were any."""

    success: bool
    error: str
    code: str
    problems: list[FileProblem] | None = None


@router.post(
    "",
    response={**answers({200: Taken, 201: Taken}, 400, 413, 415, 502), 422: Refused},
    openapi_extra=extra(
        body={
            "required": True,
            "content": {
                "application/dicom": _BINARY,
                "application/zip": _BINARY,
                MULTIPART: _FORM,
            },
        }
    ),
    operation_id="import_dicom",
    summary="Put DICOM instances into the archive",
)
def import_dicom(request: HttpRequest) -> HttpResponse:
    """Store: 201 if anything is new, 200 if all was there, 422 if nothing could be kept."""
    intake = Intake(get_pacs())
    kind = (request.content_type or "").lower()
    announced = request.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced) > conf.max_upload_bytes:
        raise BodyTooLarge
    if kind == MULTIPART:
        _take_form(intake, request)
    elif kind in DICOM_TYPES | ZIP_TYPES:
        with _received(request) as (body, size_bytes):
            _take(intake, "body", body, size_bytes)
    else:
        raise MediaTypeUnsupported
    return _answer(request, intake.report)


def _take_form(intake: Intake, request: HttpRequest) -> None:
    try:
        uploads = [one for name in request.FILES for one in request.FILES.getlist(name)]
    except (MultiPartParserError, SuspiciousOperation, OSError) as error:
        raise BodyUnreadable from error
    if not uploads:
        raise BodyUnreadable
    for one in uploads:
        _take(intake, one.name or "", cast("IO[bytes]", one.file), one.size or 0)


@contextmanager
def _received(request: HttpRequest) -> Iterator[tuple[IO[bytes], int]]:
    """Read the body into a temporary file, up to the limit."""
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as body:
        size_bytes = 0
        while chunk := request.read(CHUNK_BYTES):
            size_bytes += len(chunk)
            if size_bytes > conf.max_upload_bytes:
                raise BodyTooLarge
            body.write(chunk)
        if not size_bytes:
            raise BodyUnreadable
        body.seek(0)
        yield body, size_bytes


def _take(intake: Intake, name: str, body: IO[bytes], size_bytes: int) -> None:
    """Store a zip's instances, or one: the bytes say which, whatever the header called them."""
    body.seek(0)
    start = body.read(4)
    body.seek(0)
    if is_zip(start):
        intake.take_zip(body)
    elif size_bytes > MAX_INSTANCE_BYTES:
        raise BodyTooLarge
    else:
        intake.take(name, body.read())


def _answer(request: HttpRequest, report: Report) -> HttpResponse:
    problems = [
        {
            "index": one.index,
            "name": one.name,
            "code": one.error.code,
            "error": one.error.message_in(language_of(request)),
        }
        for one in report.problems
    ]
    if not report.series:
        return error_response(request, _reason(report), problems=problems)
    return json_answer(_counts(report, problems), status=201 if report.stored else 200)


def _reason(report: Report) -> ServiceError:
    """Give the one file's own reason, or that there was nothing to keep."""
    return report.problems[0].error if len(report.problems) == 1 else NothingStored()


def _counts(report: Report, problems: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "stored": report.stored,
        "already_stored": report.already_stored,
        "conflicting": report.conflicting,
        "refused": report.refused,
        "skipped": report.skipped,
        "series": [{"id": key, "instances": count} for key, count in report.series.items()],
        "instance_ids": report.instance_ids,
        "problems": problems,
    }

"""Refusals that only the HTTP side knows, and how every refusal becomes a body."""

from __future__ import annotations

import json
import math
from typing import Any

from django.http import HttpRequest, HttpResponse

from django_queue_app.errors import ServiceError

JSON_CONTENT_TYPE = "application/json; charset=utf-8"


class BadJson(ServiceError):
    """The body is not UTF-8 JSON."""

    code = "bad_json"
    http_status = 400
    default_message = "The body is not valid JSON in UTF-8; send a JSON object."
    default_message_ko = "본문이 올바른 UTF-8 JSON이 아닙니다. JSON 객체를 보내십시오."


class BadHeader(ServiceError):
    """A header that this call needs is missing or can't be read."""

    code = "bad_header"
    http_status = 400
    default_message = "A header of this call is missing or can't be read."
    default_message_ko = "필요한 헤더가 없거나 읽을 수 없습니다."


class CredentialsRefused(ServiceError):
    """There were credentials, and they are wrong or revoked."""

    code = "credentials_refused"
    http_status = 403
    default_message = "These credentials are not known or were revoked; ask for a new token."
    default_message_ko = "알 수 없거나 폐기된 인증 정보입니다. 새 토큰을 요청하십시오."


class UserRequired(ServiceError):
    """A worker's token was used for a front end's call."""

    code = "user_required"
    http_status = 403
    default_message = "This call is for signed-in users; a worker token can't make it."
    default_message_ko = "로그인한 사용자 전용 호출입니다. 워커 토큰으로는 할 수 없습니다."


class CrossSite(ServiceError):
    """An unsafe call by session came from another site."""

    code = "cross_site"
    http_status = 403
    default_message = "The call came from another site; open the page of this site and try again."
    default_message_ko = "다른 사이트에서 온 호출입니다. 이 사이트의 페이지에서 다시 시도하십시오."


class NotFound(ServiceError):
    """Nothing is at this address."""

    code = "not_found"
    http_status = 404
    default_message = "There is nothing at this address; see /api/mri/openapi.json."
    default_message_ko = "이 주소에는 아무것도 없습니다. /api/mri/openapi.json을 참조하십시오."


class InstanceUnknown(ServiceError):
    """The PACS has no such instance, or it belongs to no series of this request."""

    code = "instance_not_found"
    http_status = 404
    default_message = "There is no such instance here; check its id."
    default_message_ko = "해당 인스턴스를 찾을 수 없습니다. ID를 확인하십시오."


class MethodNotAllowed(ServiceError):
    """The address is known, the method isn't."""

    code = "method_not_allowed"
    http_status = 405
    default_message = (
        "This address does not take that method; the Allow header lists those it does."
    )
    default_message_ko = "이 주소에서 지원하지 않는 메서드입니다. Allow 헤더를 확인하십시오."


class NotFinished(ServiceError):
    """There is no result yet."""

    code = "not_finished"
    http_status = 409
    default_message = "The request has no result yet; read its status and ask again later."
    default_message_ko = "아직 결과가 없습니다. 상태를 확인한 후 다시 시도하십시오."


class CancelledWhileWaiting(ServiceError):
    """The request that was waited for has been cancelled."""

    code = "cancelled"
    http_status = 409
    default_message = "The request was cancelled; file it again if the result is still wanted."
    default_message_ko = "요청이 취소되었습니다. 결과가 필요하면 다시 요청하십시오."


class BodyTooLarge(ServiceError):
    """The body is larger than allowed."""

    code = "body_too_large"
    http_status = 413
    default_message = "The body is larger than this site allows; send less."
    default_message_ko = "본문이 허용된 크기를 초과합니다. 더 작게 보내십시오."


class RangeNotSatisfiable(ServiceError):
    """The range lies outside the instance."""

    code = "range_not_satisfiable"
    http_status = 416
    default_message = "The range lies outside the instance; see Content-Range for its size."
    default_message_ko = "요청한 범위가 인스턴스를 벗어났습니다. Content-Range를 확인하십시오."


class BodyInvalid(ServiceError):
    """The body is JSON, but not what this call takes."""

    code = "invalid_request"
    http_status = 422
    default_message = "The call has values that can't be used."
    default_message_ko = "사용할 수 없는 값이 있습니다."


class SeriesUnusable(ServiceError):
    """A series can't be segmented: not MR, or without images."""

    code = "series_unusable"
    http_status = 422
    default_message = "The series can't be segmented: it is not MR, or it has no images."
    default_message_ko = "분할할 수 없는 시리즈입니다. MR이 아니거나 영상이 없습니다."


class DigestMismatch(ServiceError):
    """The bytes that arrived are not those of the digest."""

    code = "digest_mismatch"
    http_status = 422
    default_message = "The bytes that arrived do not match Content-Digest; send them again."
    default_message_ko = "수신한 데이터가 Content-Digest와 일치하지 않습니다. 다시 보내십시오."


class WorkerTooOld(ServiceError):
    """The worker's version is below what this site supports."""

    code = "worker_too_old"
    http_status = 426
    default_message = "This worker is too old for the site; update it and start it again."
    default_message_ko = "워커 버전이 너무 낮습니다. 업데이트한 후 다시 시작하십시오."


class TooMany(ServiceError):
    """Too many calls with wrong credentials from one address."""

    code = "too_many"
    http_status = 429
    default_message = "Too many calls with wrong credentials; correct them and wait a minute."
    default_message_ko = "잘못된 인증이 너무 많습니다. 정보를 수정하고 잠시 후 다시 시도하십시오."


class Unexpected(ServiceError):
    """A mistake of this program; the log has the details."""

    code = "internal_error"
    http_status = 500
    default_message = "The site made a mistake; it was logged. Try again, then tell the operator."
    default_message_ko = "서버 오류가 기록되었습니다. 다시 시도한 후 관리자에게 알리십시오."


class SegmentationFailed(ServiceError):
    """The request that was waited for has failed."""

    code = "segmentation_failed"
    http_status = 502
    default_message = "The segmentation failed; the status says why."
    default_message_ko = "분할에 실패했습니다. 상태에서 이유를 확인하십시오."


class DatabaseBusy(ServiceError):
    """The database is locked or away."""

    code = "database_unavailable"
    http_status = 503
    default_message = "The site's database is busy or away; try again in a moment."
    default_message_ko = "데이터베이스를 사용할 수 없습니다. 잠시 후 다시 시도하십시오."


class NotDoneInTime(ServiceError):
    """The wait is over, the request goes on."""

    code = "not_done_in_time"
    http_status = 504
    default_message = "The result is not there yet; the request goes on, follow it at status_url."
    default_message_ko = "아직 결과가 없습니다. 요청은 계속 진행되며 status_url에서 확인하십시오."


BY_STATUS: dict[int, type[ServiceError]] = {
    400: BadJson,
    403: CredentialsRefused,
    404: NotFound,
    405: MethodNotAllowed,
    413: BodyTooLarge,
    503: DatabaseBusy,
}
"""What an error of Django itself is called."""


def language_of(request: HttpRequest) -> str:
    """Give "ko" if the caller prefers Korean over English, else "en"."""
    return preferred_language(request.headers.get("Accept-Language", ""))


def preferred_language(accept: str) -> str:
    """Read an Accept-Language header; English unless Korean has the greater weight."""
    weights = {"ko": 0.0, "en": 0.0}
    for item in accept[:500].split(","):
        tag, _, parameter = item.strip().partition(";")
        primary = tag.strip().lower().partition("-")[0]
        if primary in weights:
            weights[primary] = max(weights[primary], _weight(parameter))
    return "ko" if weights["ko"] > weights["en"] or _is_first(accept, "ko", weights) else "en"


def _is_first(accept: str, primary: str, weights: dict[str, float]) -> bool:
    first = accept.strip().lower()[:2]
    return first == primary and 0 < weights[primary] == max(weights.values())


def _weight(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    try:
        return float(value) if name.strip().lower() == "q" else 1.0
    except ValueError:
        return 0.0


def error_response(request: HttpRequest, error: ServiceError, **more: Any) -> HttpResponse:
    """Encode a refusal: its sentence in the caller's language, its code, and `more` fields."""
    body = {
        "success": False,
        "error": error.message_in(language_of(request)),
        "code": error.code,
        **more,
    }
    response = HttpResponse(
        dump_json(body), status=error.http_status, content_type=JSON_CONTENT_TYPE
    )
    if error.http_status == 401:
        # Not Basic: a browser would open its own password dialog over the page.
        response["WWW-Authenticate"] = 'Bearer realm="segmentation"'
    if error.retry_after_s is not None or error.http_status in {429, 503}:
        response["Retry-After"] = str(max(1, math.ceil(error.retry_after_s or 1)))
    response["Cache-Control"] = "no-store"
    return response


def dump_json(body: Any) -> bytes:
    """Encode as UTF-8 JSON; a lone surrogate becomes its escape instead of an error."""
    text = json.dumps(body, ensure_ascii=False, default=str)
    return text.encode("utf-8", errors="backslashreplace")

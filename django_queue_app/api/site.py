"""The API put together: one ninja instance, its JSON, its error answers."""

from __future__ import annotations

import json
import logging
from typing import Any, NoReturn

from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.http.request import RawPostDataException, UnreadablePostError
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError
from ninja.parser import Parser
from ninja.renderers import BaseRenderer

from django_queue_app.api.errors import (
    BY_STATUS,
    BadJson,
    BodyInvalid,
    BodyTooLarge,
    DatabaseBusy,
    NotFound,
    Unexpected,
    dump_json,
    error_response,
)
from django_queue_app.errors import ServiceError, StorageUnavailable, Unauthenticated

logger = logging.getLogger(__name__)

# Beyond this a sentence that lists everything helps nobody, and a hostile body makes it long.
MOST_PROBLEMS_NAMED = 5


class Utf8Json(BaseRenderer):
    """JSON with Korean as it is read, not as escapes."""

    media_type = "application/json"

    def render(self, request: HttpRequest, data: Any, *, response_status: int) -> bytes:  # noqa: ARG002
        """Encode."""
        return dump_json(data)


class StrictJson(Parser):
    """UTF-8 only (`json.loads` guesses UTF-16 and 32), and neither NaN nor Infinity."""

    def parse_body(self, request: HttpRequest) -> Any:
        """Decode; ninja answers 400 to whatever this raises."""
        return json.loads(request.body.decode("utf-8-sig"), parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


api = NinjaAPI(
    title="MRI segmentation",
    version="1.0",
    description=(
        "Requests for segmentation of MRI series, their queue, and the calls of workers. "
        "Every body has `success`; an error has `error` (a sentence) and `code` (stable). "
        "For research use only."
    ),
    openapi_url="/mri/openapi.json",
    docs_url=None,
    renderer=Utf8Json(),
    parser=StrictJson(),
    urls_namespace="segmentation-api",
)


@api.exception_handler(ServiceError)
def _on_service_error(request: HttpRequest, error: ServiceError) -> HttpResponse:
    return error_response(request, error)


@api.exception_handler(AuthenticationError)
def _on_no_credentials(request: HttpRequest, _: AuthenticationError) -> HttpResponse:
    return error_response(request, Unauthenticated())


@api.exception_handler(HttpError)
def _on_http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
    return error_response(request, BY_STATUS.get(error.status_code, Unexpected)())


@api.exception_handler(ValidationError)
def _on_invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
    problems = [_problem(item) for item in error.errors[:MOST_PROBLEMS_NAMED]]
    more = len(error.errors) - len(problems)
    listed = "; ".join(problems) + (f"; and {more} more" if more else "")
    return error_response(
        request,
        BodyInvalid(
            f"The call has values that can't be used: {listed}.",
            f"사용할 수 없는 값이 있습니다: {listed}.",
        ),
    )


def _problem(item: dict[str, Any]) -> str:
    """Name the place and the trouble, without repeating what was sent."""
    place = ".".join(str(part)[:60] for part in item.get("loc", ()) if part != "body")
    return f"{place or 'body'}: {str(item.get('msg', 'invalid'))[:200]}"


@api.exception_handler(Http404)
def _on_not_found(request: HttpRequest, _: Http404) -> HttpResponse:
    return error_response(request, NotFound())


@api.exception_handler(RequestDataTooBig)
def _on_too_big(request: HttpRequest, _: RequestDataTooBig) -> HttpResponse:
    return error_response(request, BodyTooLarge())


@api.exception_handler(SuspiciousOperation)
@api.exception_handler(UnreadablePostError)
@api.exception_handler(RawPostDataException)
def _on_bad_body(request: HttpRequest, _: Exception) -> HttpResponse:
    return error_response(request, BadJson())


@api.exception_handler(OperationalError)
@api.exception_handler(InterfaceError)
def _on_database_away(request: HttpRequest, error: Exception) -> HttpResponse:
    reason = str(error)[:500]
    logger.warning("database_unavailable", extra={"reason": reason})
    # Both databases say it in these words: "database or disk is full", "No space left on device".
    if "full" in reason or "No space left" in reason:
        return error_response(request, StorageUnavailable(retry_after_s=30))
    return error_response(request, DatabaseBusy(retry_after_s=2))


@api.exception_handler(Exception)
def _on_anything(request: HttpRequest, error: Exception) -> HttpResponse:
    logger.error("api_call_failed", extra={"path": request.path[:200]}, exc_info=error)
    return error_response(request, Unexpected())

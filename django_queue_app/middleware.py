"""What happens around every call: its place in the log, its limit, its figures, its headers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from django.contrib.auth.signals import user_login_failed
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.utils.translation import get_language

from django_queue_app import log_context, metrics, throttle
from django_queue_app.api.errors import TooMany, error_response
from django_queue_app.api.headers import parse_uuid

logger = logging.getLogger(__name__)
# One line per call; a project that has the server's own access log leaves it off.
call_log = logging.getLogger("django_queue_app.calls")

GetResponse = Callable[[HttpRequest], HttpResponse]

# For answers that say nothing else themselves; a page has its own (`views.page`).
NO_CONTENT_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Django's admin brings its own files and no inline code.
ADMIN_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
# The page's own and the admin's.
LOGIN_PAGES = frozenset({"segmentation-login", "login"})
HEADERS = {
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}


def security_headers(get_response: GetResponse) -> GetResponse:
    """Give every answer the headers that it does not have; comes first in `MIDDLEWARE`."""

    def guarded(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        for name, value in HEADERS.items():
            response.setdefault(name, value)
        response.setdefault("Content-Security-Policy", _policy_of(request))
        return response

    return guarded


def _policy_of(request: HttpRequest) -> str:
    match = request.resolver_match
    is_admin = match is not None and "admin" in match.app_names
    return ADMIN_POLICY if is_admin else NO_CONTENT_POLICY


class Observed:
    """Counts each call, times it, and binds to its log lines what its address tells."""

    def __init__(self, get_response: GetResponse) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer one call."""
        began = time.monotonic()
        with log_context.of_one_call() as call_id:
            response = self._get_response(request)
            self._note(request, response, time.monotonic() - began)
        response["X-Request-Id"] = call_id
        return response

    def process_view(
        self,
        request: HttpRequest,  # noqa: ARG002
        view: Callable[..., HttpResponse],  # noqa: ARG002
        args: tuple[Any, ...],  # noqa: ARG002
        kwargs: dict[str, Any],
    ) -> None:
        """Bind the request that the address names."""
        key = parse_uuid(str(kwargs.get("request_id", "")))
        if key is not None:
            log_context.bind(request_id=key)

    @staticmethod
    def _note(request: HttpRequest, response: HttpResponse, seconds: float) -> None:
        route = _route_of(request)
        metrics.CALLS.labels(_method_of(request), route, str(response.status_code)).inc()
        metrics.CALL_SECONDS.labels(route).observe(seconds)
        call_log.info(
            "http_call",
            extra={
                "method": _method_of(request),
                "route": route,
                "status": response.status_code,
                "duration_s": round(seconds, 4),
            },
        )


def _route_of(request: HttpRequest) -> str:
    """Give the pattern of an address: addresses themselves are without number."""
    match = request.resolver_match
    return match.route if match is not None else "unknown"


def _method_of(request: HttpRequest) -> str:
    known = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
    return request.method if request.method in known else "other"


class Limited:
    """Refuses who calls too often by session or without credentials, and who guesses passwords.

    Calls by token are counted where the token is known (`api.auth`). Comes after Django's
    AuthenticationMiddleware.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer one call."""
        wait_s = _wait_of_caller(request)
        return refusal(request, wait_s) if wait_s else self._get_response(request)

    def process_view(
        self,
        request: HttpRequest,
        view: Callable[..., HttpResponse],  # noqa: ARG002
        args: tuple[Any, ...],  # noqa: ARG002
        kwargs: dict[str, Any],  # noqa: ARG002
    ) -> HttpResponse | None:
        """Refuse a further password, right or wrong, after too many wrong ones."""
        match = request.resolver_match
        if request.method != "POST" or match is None or match.url_name not in LOGIN_PAGES:
            return None
        wait_s = _wait_of_login(request)
        return refusal(request, wait_s) if wait_s else None


def _wait_of_caller(request: HttpRequest) -> float:
    if "Authorization" in request.headers:
        return 0.0
    user = request.user
    if user.is_authenticated:
        log_context.bind(user=user.get_username())
        return throttle.USER.count(f"user:{user.pk}")
    return throttle.ADDRESS.count(address_of(request))


def _wait_of_login(request: HttpRequest) -> float:
    """Tell how long who failed to sign in must wait."""
    address, name = address_of(request), request.POST.get("username", "")
    return throttle.LOGIN_OF_ADDRESS.is_spent(address) or throttle.LOGIN_OF_NAME.is_spent(
        f"{address} {name}"
    )


@receiver(user_login_failed)
def count_failed_login(
    credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any
) -> None:
    """Count a wrong password against the address, and against the name as tried from there."""
    metrics.REFUSED.labels("password").inc()
    if request is None:
        return
    address = address_of(request)
    throttle.LOGIN_OF_ADDRESS.count(address)
    throttle.LOGIN_OF_NAME.count(f"{address} {credentials.get('username', '')}")
    logger.warning("login_failed", extra={"address": address})


def refusal(request: HttpRequest, wait_s: float) -> HttpResponse:
    """Give 429: JSON to a program, a sentence to a person."""
    error = TooMany(
        "Too many calls, or wrong passwords, in a short time; wait and try again.",
        "짧은 시간에 호출 또는 잘못된 암호가 너무 많습니다. 잠시 후 다시 시도하십시오.",
        retry_after_s=wait_s,
    )
    response = error_response(request, error)
    if not request.path.startswith("/api/"):
        response.content = error.message_in(get_language() or "").encode()
        response["Content-Type"] = "text/plain; charset=utf-8"
    return response


def address_of(request: HttpRequest) -> str:
    """Give the caller's address; the ASGI server puts the proxy's word for it there."""
    return str(request.META.get("REMOTE_ADDR", ""))

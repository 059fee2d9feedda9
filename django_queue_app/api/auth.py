"""Who calls: a user (session or token), a worker (token), or both where the contract lets both.

No credentials are 401, wrong ones 403. An `Authorization` header decides alone; a session cookie
counts only without one, so that a program never acts by a browser's cookie by accident.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit

from django.contrib.auth.models import AbstractBaseUser
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import CsrfViewMiddleware

from django_queue_app import log_context, metrics, throttle, tokens
from django_queue_app.api.errors import CredentialsRefused, CrossSite, TooMany, UserRequired
from django_queue_app.errors import Unauthenticated, WorkerTokenRequired
from django_queue_app.models import ApiToken

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who makes a call: exactly one of `user` and `token` of a worker is the one who acts."""

    user: AbstractBaseUser | None = None
    token: ApiToken | None = None

    @property
    def name(self) -> str:
        """Name for the history; a login name or a token's name, never a patient's."""
        if self.user is not None:
            return str(self.user.get_username())
        return str(self.token.name) if self.token is not None else ""

    @property
    def is_worker(self) -> bool:
        """Whether a worker's token was used."""
        return self.token is not None and self.token.kind == ApiToken.Kind.WORKER


class SessionCookie:
    """A signed-in user of this site."""

    openapi_security_schema = {  # noqa: RUF012  (ninja reads it as it is)
        "type": "apiKey",
        "in": "cookie",
        "name": "sessionid",
        "description": "A Django session; unsafe calls must come from this site itself.",
    }

    def __call__(self, request: HttpRequest) -> Caller | None:
        """Give the user of the session, or None."""
        if "Authorization" in request.headers:
            return None
        user = getattr(request, "user", None)
        if user is None or not user.is_authenticated:
            return None
        refuse_cross_site(request)
        return Caller(user=user)


class UserToken:
    """A user's token, for programs that act for a person."""

    openapi_security_schema = {  # noqa: RUF012
        "type": "http",
        "scheme": "bearer",
        "description": "A user's token, made by `manage.py segmentation_token`.",
    }

    def __call__(self, request: HttpRequest) -> Caller:
        """Give the token's user, or refuse."""
        caller = _caller_of(_read_token(request))
        if caller.is_worker:
            raise UserRequired
        return caller


class WorkerBearer:
    """A worker's token."""

    openapi_security_schema = {  # noqa: RUF012
        "type": "http",
        "scheme": "bearer",
        "description": "A worker's token, made by `manage.py segmentation_token`.",
    }

    def __call__(self, request: HttpRequest) -> Caller:
        """Give the worker, or refuse."""
        caller = _caller_of(_read_token(request))
        if not caller.is_worker:
            raise WorkerTokenRequired
        return caller


class WorkerBasic:
    """The same token as Basic `name:token`; read by `WorkerBearer`, named here for OpenAPI."""

    openapi_security_schema = {  # noqa: RUF012
        "type": "http",
        "scheme": "basic",
        "description": "A worker's token as the password, its name as the user.",
    }

    def __call__(self, request: HttpRequest) -> Caller | None:  # noqa: ARG002
        """Nothing is left to try: `WorkerBearer` has decided."""
        return None


class AnyToken(UserToken):
    """A user's or a worker's token, for the calls that both may make."""

    def __call__(self, request: HttpRequest) -> Caller:
        """Give the caller, or refuse."""
        return _caller_of(_read_token(request))


FRONT_END: list[Any] = [SessionCookie(), UserToken()]
WORKER: list[Any] = [WorkerBearer(), WorkerBasic()]
FRONT_END_OR_WORKER: list[Any] = [SessionCookie(), AnyToken(), WorkerBasic()]


def optional_caller(request: HttpRequest) -> Caller | None:
    """Give the caller of a call that needs no credentials; None for an anonymous one."""
    try:
        return SessionCookie()(request) or AnyToken()(request)
    except Unauthenticated:
        return None


def caller_of(request: HttpRequest) -> Caller:
    """Give the caller that authentication found for this call."""
    caller = getattr(request, "auth", None)
    if not isinstance(caller, Caller):
        raise Unauthenticated
    return caller


def worker_token_of(request: HttpRequest) -> ApiToken:
    """Give the worker's token of this call."""
    token = caller_of(request).token
    if token is None or token.kind != ApiToken.Kind.WORKER:
        raise WorkerTokenRequired
    return token


def _caller_of(token: ApiToken) -> Caller:
    if token.kind == ApiToken.Kind.WORKER:
        return Caller(token=token)
    if token.user is None or not token.user.is_active:
        raise CredentialsRefused
    return Caller(user=token.user, token=token)


def _read_token(request: HttpRequest) -> ApiToken:
    name, secret = _read_credentials(request.headers.get("Authorization", ""))
    token = tokens.authenticate(secret, name=name)
    if token is None:
        _refuse(request)
    _count(token)
    return token


def _refuse(request: HttpRequest) -> NoReturn:
    """Refuse; with 429 who sends wrong tokens in a loop.

    Only wrong tokens are ever answered so, so that one broken worker behind a hospital's proxy
    can't lock the others out. A token can't be guessed: this slows a loop down, it is no ban.
    """
    metrics.REFUSED.labels("token").inc()
    wait_s = throttle.WRONG_CREDENTIALS.count(str(request.META.get("REMOTE_ADDR", "")))
    if wait_s:
        raise TooMany(retry_after_s=wait_s)
    raise CredentialsRefused


def _count(token: ApiToken) -> None:
    """Count a call of a token, and say in the log whose calls these are."""
    is_worker = token.kind == ApiToken.Kind.WORKER
    log_context.bind(**{"worker" if is_worker else "user": token.name})
    limit = throttle.WORKER if is_worker else throttle.USER
    wait_s = limit.count(f"token:{token.pk}")
    if wait_s:
        raise TooMany(
            "This token makes too many calls; wait as long as Retry-After says.",
            "이 토큰의 호출이 너무 많습니다. Retry-After만큼 기다린 후 다시 시도하십시오.",
            retry_after_s=wait_s,
        )


def _read_credentials(header: str) -> tuple[str | None, str]:
    """Read `Bearer <token>` or Basic `name:token`; the name is None for Bearer."""
    scheme, _, value = header.strip().partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return None, value.strip()
    if scheme.lower() == "basic":
        try:
            decoded = base64.b64decode(value.strip(), validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            decoded = ""
        name, colon, secret = decoded.partition(":")
        if colon and secret:
            return name, secret
    raise Unauthenticated


def refuse_cross_site(request: HttpRequest) -> None:
    """Refuse an unsafe call by session that another site may have made.

    A browser that sends `Sec-Fetch-Site` is believed, then one that sends `Origin`; without
    either, only Django's CSRF token helps.
    """
    if request.method in SAFE_METHODS:
        return
    site = request.headers.get("Sec-Fetch-Site", "").lower()
    if site in {"same-origin", "none"}:
        return
    origin = request.headers.get("Origin", "")
    if not site and origin and _netloc_of(origin) == request.get_host():
        return
    if not _has_csrf_token(request):
        raise CrossSite


def _netloc_of(origin: str) -> str:
    """Give host and port of an origin; empty for `null` and what isn't one."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


class _CsrfCheck(CsrfViewMiddleware):
    def _reject(self, request: HttpRequest, reason: str) -> HttpResponse:  # noqa: ARG002
        return HttpResponse(status=403)


def _has_csrf_token(request: HttpRequest) -> bool:
    """Let Django check its token; its middleware passed over the view, as ninja's are exempt."""
    check = _CsrfCheck(_not_exempt)
    check.process_request(request)
    return check.process_view(request, _not_exempt, (), {}) is None


def _not_exempt(request: HttpRequest) -> HttpResponse:  # noqa: ARG001
    return HttpResponse()

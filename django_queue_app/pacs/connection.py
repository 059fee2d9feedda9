"""Calls to an archive on another machine: one place for credentials, TLS, time limits and errors.

Only the configured address is ever called: redirects are refused, and neither proxies nor
passwords are taken from the environment of the process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from django.core.exceptions import ImproperlyConfigured
from requests.adapters import HTTPAdapter

from django_queue_app.conf import conf
from django_queue_app.pacs.port import (
    PacsBadAnswer,
    PacsCredentialsRefused,
    PacsTooSlow,
    PacsUnavailable,
)

# An archive in the same building answers a TCP handshake at once, or is away.
CONNECT_TIMEOUT_S = 5.0
# A look whether it is well must not hold up the page that shows it.
CHECK_TIMEOUT_S = 5.0
# Reads of single instances go on in parallel; each keeps a connection of its own.
CONNECTIONS = 8

_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Where an archive is and how it is spoken to; times in seconds.

    `timeout_s` bounds the silence between two bytes, `deadline_s` one call as a whole. `ca` names
    a file of certificates to trust instead of the system's.
    """

    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    ca: str = ""
    timeout_s: float = 30.0
    deadline_s: float = 300.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ImproperlyConfigured(
                "SEGMENTATION_PACS_URL: expected an address such as https://pacs.example:8042, "
                f"got {parts.scheme}://{parts.hostname or ''}"
            )
        if parts.username or parts.password:
            raise ImproperlyConfigured(
                "SEGMENTATION_PACS_URL: give the credentials by SEGMENTATION_PACS_USER and "
                "SEGMENTATION_PACS_PASSWORD, not inside the address, which may be logged"
            )
        if self.token and (self.user or self.password):
            raise ImproperlyConfigured(
                "SEGMENTATION_PACS_TOKEN: give either a token or user and password, not both"
            )


def configured() -> Connection:
    """Return the connection of the settings.

    Raises
    ------
    ImproperlyConfigured
        The address is missing or can't be used.
    """
    return Connection(
        url=conf.pacs_url.rstrip("/"),
        user=conf.pacs_user,
        password=conf.pacs_password,
        token=conf.pacs_token,
        ca=conf.pacs_ca,
        timeout_s=conf.pacs_timeout_s,
        deadline_s=conf.pacs_deadline_s,
    )


def open_session(connection: Connection) -> requests.Session:
    """Return a session that keeps connections open and bounds the time of each call."""
    session = requests.Session()
    session.trust_env = False
    session.max_redirects = 0
    session.verify = connection.ca or True
    if connection.token:
        session.headers["Authorization"] = f"Bearer {connection.token}"
    elif connection.user:
        session.auth = (connection.user, connection.password)
    adapter = _BoundedAdapter(connection)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _BoundedAdapter(HTTPAdapter):
    """Gives every call a time limit, for its silence and for its whole."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        super().__init__(pool_connections=1, pool_maxsize=CONNECTIONS)

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, *, timeout: float | None = None, **options: Any
    ) -> requests.Response:
        end = time.monotonic() + self._connection.deadline_s
        silence_s = min(timeout or self._connection.timeout_s, self._connection.deadline_s)
        limits = (min(CONNECT_TIMEOUT_S, silence_s), silence_s)
        response = super().send(request, timeout=limits, **options)
        _bound_reading(response, end)
        return response


def _bound_reading(response: requests.Response, end: float) -> None:
    """Let reading the body fail at `end`: a byte now and then would satisfy the socket for ever."""

    def iter_content(chunk_size: int | None = 1, decode_unicode: bool = False) -> Iterator[bytes]:  # noqa: ARG001
        # `read1` gives what is there; `read` would wait until a whole piece is full.
        while chunk := _read_some(response):
            if time.monotonic() > end:
                response.close()
                raise requests.ReadTimeout("the answer took too long as a whole")
            yield chunk

    response.iter_content = iter_content  # type: ignore[method-assign]


def _read_some(response: requests.Response) -> bytes:
    try:
        return bytes(response.raw.read1(_CHUNK_BYTES, decode_content=True))
    except urllib3.exceptions.ReadTimeoutError as error:
        raise requests.ReadTimeout(str(error)) from error
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(str(error)) from error


@contextmanager
def errors_translated() -> Iterator[None]:
    """Turn what `requests` raises into the port's errors; their texts name no address."""
    try:
        yield
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        raise error_of_status(status) from error
    except requests.Timeout as error:
        raise PacsTooSlow from error
    except (requests.TooManyRedirects, requests.exceptions.InvalidSchema) as error:
        raise PacsBadAnswer(
            "The image archive redirects to another address, which is not followed; set "
            "SEGMENTATION_PACS_URL to the final one.",
            "영상 저장소가 다른 주소로 이동하도록 응답합니다. SEGMENTATION_PACS_URL을 "
            "최종 주소로 설정하십시오.",
        ) from error
    except requests.exceptions.SSLError as error:
        raise PacsUnavailable(
            "The image archive's certificate can't be verified; set SEGMENTATION_PACS_CA to the "
            "file of the authority that signed it.",
            "영상 저장소의 인증서를 확인할 수 없습니다. SEGMENTATION_PACS_CA에 서명 기관의 "
            "인증서 파일을 지정하십시오.",
        ) from error
    except requests.JSONDecodeError as error:
        raise PacsBadAnswer from error
    except requests.RequestException as error:
        raise PacsUnavailable from error


def mappings_of(answer: Any) -> list[dict[str, Any]]:
    """Return an answer that should be a list of objects. Raises PacsBadAnswer if it is none."""
    if not isinstance(answer, list) or not all(isinstance(one, dict) for one in answer):
        raise PacsBadAnswer
    return answer


def error_of_status(status: int) -> PacsUnavailable:
    """Return what a refusal by the archive means, for calls that should have worked."""
    if status in {401, 403, 407}:
        return PacsCredentialsRefused()
    if status in {408, 504}:
        return PacsTooSlow()
    return PacsUnavailable() if status == 429 or status >= 500 else PacsBadAnswer()

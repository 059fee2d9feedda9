"""The site over HTTP: sessions, credentials, and one switch from a status to an error.

Nothing here retries: whoever calls knows what a failure means for the job.
"""

from __future__ import annotations

import math
import ssl
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from worker import __version__
from worker.adapters.http_limit import LimitedAdapter, TimeLimit
from worker.core.errors import (
    Cancelled,
    LeaseLost,
    ResultRefused,
    ServerUnavailable,
    Unauthorized,
    WorkerTooOld,
)
from worker.settings import Credentials, ServerSettings

LOOPBACK = ("127.0.0.1", "localhost", "::1")
API = "/api/mri/segmentation/"
_LONGEST_SENTENCE = 300
# The slowest line on which a mask is still worth sending: below it an upload is cut and tried anew.
SLOWEST_BYTES_PER_S = 20_000
# OpenSSL's reasons why a certificate was refused (x509_vfy.h).
_NOT_YET_VALID, _EXPIRED, _OTHER_NAME = 9, 10, 62


class _Bearer(AuthBase):
    # An auth object, not a plain header: requests would replace the header by a ~/.netrc entry.
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _NoCredentials(AuthBase):
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def _auth(credentials: Credentials | None) -> AuthBase:
    if credentials is None:
        return _NoCredentials()
    if credentials.name is None:
        return _Bearer(credentials.token)
    return HTTPBasicAuth(credentials.name, credentials.token)


class HttpClient:
    """One connection pool for each thread that calls, since a requests session is not shared."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.clock_ahead_s: float | None = None
        self._local = threading.local()

    def call(
        self,
        method: str,
        path: str,
        *,
        read_timeout_s: float | None = None,
        body_bytes: int = 0,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> requests.Response:
        """Send one request and give the answer, whatever its status.

        Parameters
        ----------
        read_timeout_s : float, optional
            How long the whole answer may take, not only the pause between two of its bytes; of a
            streamed one (``stream=True``) until its body begins.
        body_bytes : int
            How much is sent, which takes its time, too.

        Raises
        ------
        ServerUnavailable
            No answer, or a redirect, which is never followed: it would turn a POST into a GET.
        """
        connect_s = self.settings.connect_timeout_s
        read_s = read_timeout_s or self.settings.read_timeout_s
        session = self._session()
        try:
            with TimeLimit(connect_s + read_s + body_bytes / SLOWEST_BYTES_PER_S) as limit:
                response = session.request(
                    method,
                    self.settings.url + API + path,
                    timeout=(connect_s, read_s),
                    allow_redirects=False,
                    headers=dict(headers or {}),
                    **options,
                )
        except requests.RequestException as error:
            raise ServerUnavailable(network_sentence(self.settings.url, error)) from error
        self.clock_ahead_s = _clock_ahead_s(response)
        if limit.is_over:
            # Cut by us; without a length an answer that was cut looks whole.
            response.close()
            raise ServerUnavailable(f"{self.settings.url} took too long to answer.")
        if 300 <= response.status_code < 400 and response.status_code != 304:
            target = response.headers.get("Location", "another address")
            raise ServerUnavailable(
                f"{self.settings.url} redirects to {target}: set server.url to the final address."
            )
        return response

    def call_json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Send one request and give its JSON.

        Raises
        ------
        WorkerError
            By status, see `raise_for_status`.
        """
        response = self.call(method, path, **options)
        raise_for_status(response)
        return read_json(response)

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            for scheme in ("http://", "https://"):
                session.mount(scheme, LimitedAdapter())
            session.auth = _auth(self.settings.credentials)
            # No proxy leads to this very machine, whatever the environment says.
            session.trust_env = urlsplit(self.settings.url).hostname not in LOOPBACK
            session.headers["User-Agent"] = f"mri-worker/{__version__}"
            session.headers["Accept"] = "application/json"
            if self.settings.ca_file is not None:
                session.verify = str(self.settings.ca_file)
            self._local.session = session
        return session


def network_sentence(url: str, error: Exception) -> str:
    """Say in one sentence why there was no answer; exception texts name addresses, no secrets."""
    if isinstance(error, requests.exceptions.SSLError):
        return _certificate_sentence(url, error)
    if isinstance(error, requests.exceptions.ProxyError):
        return f"The proxy between here and {url} refused or is away: check HTTPS_PROXY, NO_PROXY."
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return f"{url} does not answer: check the address, the network and the firewall."
    if isinstance(error, requests.exceptions.ReadTimeout):
        return f"{url} took too long to answer."
    if isinstance(error, requests.exceptions.ConnectionError):
        return f"No connection to {url}: check the address and that the site is running."
    return f"The call to {url} failed ({type(error).__name__})."


def _certificate_sentence(url: str, error: BaseException) -> str:
    match _verify_code(error):
        case None:
            return (
                f"There is no HTTPS connection with {url}: check that the address should begin "
                "with https:// and that no proxy in between ends it."
            )
        case code if code == _EXPIRED:
            return (
                f"The certificate of {url} has expired: the site's administrator must renew it. "
                "If it is still good elsewhere, this machine's date is wrong."
            )
        case code if code == _NOT_YET_VALID:
            return (
                f"The certificate of {url} is not valid yet: this machine's date is wrong, or the "
                "certificate was made with a wrong one."
            )
        case code if code == _OTHER_NAME:
            return (
                f"The certificate of {url} is for another name: set server.url to the name that "
                "the certificate bears."
            )
        case _:
            return (
                f"The certificate of {url} can't be verified: it is signed by nobody that this "
                "machine trusts. Name the hospital's certificate authority in server.ca_file."
            )


def _verify_code(error: BaseException | None) -> int | None:
    """Find OpenSSL's reason in what requests and urllib3 wrapped around it."""
    for _ in range(10):
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_code
        if error is None:
            break
        inner = getattr(error, "reason", None) or next(
            (item for item in error.args if isinstance(item, BaseException)), None
        )
        error = inner if isinstance(inner, BaseException) else error.__context__
    return None


def read_json(response: requests.Response) -> dict[str, Any]:
    """Give the JSON of a 2xx answer; a proxy's page that arrives as 200 is no answer."""
    kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    try:
        body = response.json() if kind == "application/json" else None
    except (ValueError, requests.RequestException):
        body = None
    if not isinstance(body, dict) or body.get("success") is not True:
        raise ServerUnavailable(
            f"The answer of {_host(response)} is not the segmentation site's "
            f"({kind or 'no content type'}): check server.url, and any proxy in between."
        )
    return body


def raise_for_status(response: requests.Response) -> None:
    """Turn a status into the error that carries the decision; nothing for 2xx.

    Only the site's own words decide about a job: a proxy's page, whatever its status, is no answer.
    """
    status = response.status_code
    if 200 <= status < 300:
        return
    code, said = _reason(response)
    if not code and status not in (401, 413):
        raise ServerUnavailable(
            f"{_host(response)} can't answer now ({status}, not in the site's own words: check "
            "any proxy in between).",
            retry_after_s=retry_after_s(response),
        )
    match status:
        case 401:
            raise Unauthorized(_credentials_sentence(response, said))
        case 403 if code not in ("not_your_job",):
            raise Unauthorized(_credentials_sentence(response, said))
        case 404:
            raise ResultRefused(
                said or f"{_host(response)} does not know this (404).", code=code or "not_found"
            )
        case 410:
            raise Cancelled(said or "The request was cancelled or is finished.")
        case 412:
            raise LeaseLost(said or "Another worker holds this request now.")
        case 426:
            raise WorkerTooOld(
                said or f"The site asks for a newer worker than {__version__}: update this one."
            )
        case 408 | 425 | 429:
            raise _unavailable(response, said)
        case _ if status >= 500:
            raise _unavailable(response, said)
        case _:
            raise ResultRefused(
                said or f"{_host(response)} refused the call ({status}).",
                code=code or f"http_{status}",
            )


def _credentials_sentence(response: requests.Response, said: str) -> str:
    if "Authorization" not in response.request.headers:
        return (
            f"{_host(response)} asks for credentials and this worker has none: set WORKER_TOKEN to "
            "the token that the site's administrator gives you, or name its file in "
            "server.token_file."
        )
    return (
        f"{_host(response)} refused this worker's credentials ({response.status_code}"
        f"{': ' + said if said else ''}): set WORKER_TOKEN to a worker token that is still valid."
    )


def _unavailable(response: requests.Response, said: str) -> ServerUnavailable:
    sentence = f"{_host(response)} can't answer now ({response.status_code}"
    return ServerUnavailable(
        f"{sentence}{': ' + said if said else ''}).",
        retry_after_s=retry_after_s(response),
    )


def retry_after_s(response: requests.Response, *, default: float | None = None) -> float | None:
    """Give Retry-After in seconds; a date is ignored, since only durations are compared."""
    try:
        seconds = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return default
    return min(max(seconds, 0.0), 3600.0) if math.isfinite(seconds) else default


def _clock_ahead_s(response: requests.Response) -> float | None:
    """Give how far this machine's clock is ahead of the site's, for `doctor` alone."""
    try:
        theirs = parsedate_to_datetime(response.headers["Date"])
    except (KeyError, ValueError):
        return None
    return time.time() - theirs.timestamp()


def _reason(response: requests.Response) -> tuple[str, str]:
    """Give `code` and `error` of an error's body, empty where it has none."""
    try:
        body = response.json()
    except (ValueError, requests.RequestException):
        return "", ""
    if not isinstance(body, dict) or body.get("success") is not False:
        return "", ""
    return str(body.get("code") or ""), str(body.get("error") or "")[:_LONGEST_SENTENCE]


def _host(response: requests.Response) -> str:
    return response.url.split("/api/")[0]

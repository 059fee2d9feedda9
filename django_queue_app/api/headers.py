"""Request headers as values; what can't be read is refused with 400, never guessed."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

from django.http import HttpRequest

from django_queue_app.api.errors import BadHeader

# A page may name any number; a day is beyond every use and far from overflow.
LONGEST_WAIT_S = 86_400.0
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_UUID_DIGITS = re.compile(r"[0-9a-fA-F]{32}")
_BYTE_SEQUENCE = re.compile(r":([A-Za-z0-9+/]*={0,2}):\s*(?:;.*)?")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, kw_only=True)
class Prefer:
    """What the `Prefer` header asks for (RFC 7240).

    Parameters
    ----------
    is_async : bool
        `respond-async`.
    wait_s : float, optional
        `wait=N`; None when it is absent or no number.
    """

    is_async: bool = False
    wait_s: float | None = None

    @property
    def applied(self) -> str:
        """Value of `Preference-Applied`; empty when nothing was preferred."""
        if self.wait_s is not None:
            return f"wait={self.wait_s:g}"
        return "respond-async" if self.is_async else ""

    def capped(self, most_s: float) -> Prefer:
        """Give the same preference with a wait of at most `most_s`."""
        return self if self.wait_s is None else replace(self, wait_s=min(self.wait_s, most_s))


def read_prefer(request: HttpRequest) -> Prefer:
    """Read `Prefer`; as RFC 7240 wants, what isn't understood is ignored."""
    is_async, wait_s = False, None
    for item in re.split("[,;]", request.headers.get("Prefer", "")):
        name, _, value = (part.strip() for part in item.partition("="))
        if name.lower() == "respond-async":
            is_async = True
        elif name.lower() == "wait" and wait_s is None:
            wait_s = _seconds(value.strip('"'))
    return Prefer(is_async=is_async, wait_s=wait_s)


def _seconds(value: str) -> float | None:
    if not re.fullmatch(r"[0-9]{1,9}", value):
        return None
    return min(float(value), LONGEST_WAIT_S)


def parse_uuid(value: str) -> UUID | None:
    """Read a UUID in its usual form only; `UUID()` itself takes braces and bare digits too."""
    return UUID(value) if _UUID.fullmatch(value) else None


def _key_from(value: str) -> UUID | None:
    """Read a key that a worker made: bare or quoted, with dashes or without."""
    text = value.strip().strip('"')
    return UUID(text) if _UUID_DIGITS.fullmatch(text) else parse_uuid(text)


def read_idempotency_key(request: HttpRequest) -> UUID:
    """Read `Idempotency-Key`, which becomes the lease."""
    key = _key_from(request.headers.get("Idempotency-Key", ""))
    if key is None:
        raise BadHeader(
            "Send a new UUID in Idempotency-Key for each claim.",
            "Idempotency-Key 헤더에 새 UUID를 보내십시오.",
            code="bad_idempotency_key",
        )
    return key


def read_lease(request: HttpRequest) -> UUID | None:
    """Read the lease from `If-Match: "<lease>"`; None when the header is absent.

    What is no UUID was never issued. So it becomes a lease that nobody has, and the service says
    412 once it has looked whether there is such a request.
    """
    value = request.headers.get("If-Match")
    return None if value is None else _key_from(value) or uuid4()


def require_lease(request: HttpRequest) -> UUID:
    """Read the lease; its absence is refused too."""
    lease = read_lease(request)
    if lease is None:
        raise BadHeader(
            'Send the lease of the claim in If-Match, as "<uuid>".',
            '작업 요청 때 받은 임대 ID를 If-Match 헤더에 "<uuid>" 형식으로 보내십시오.',
            code="bad_if_match",
        )
    return lease


def read_content_digest(request: HttpRequest) -> str:
    """Read the SHA-256 of `Content-Digest: sha-256=:<base64>:` (RFC 9530) as lower-case hex."""
    for item in request.headers.get("Content-Digest", "").split(","):
        name, _, value = item.strip().partition("=")
        if name.strip().lower() == "sha-256":
            digest = sha256_from(value)
            if digest is not None:
                return digest
    raise BadHeader(
        "Send the SHA-256 of the body in Content-Digest, as sha-256=:<base64>:.",
        "본문의 SHA-256을 Content-Digest 헤더에 sha-256=:<base64>: 형식으로 보내십시오.",
        code="bad_content_digest",
    )


def sha256_from(value: str) -> str | None:
    """Read a SHA-256 as a byte sequence of RFC 8941, 3.3.5: `:<base64>:`; None if it is none.

    Parameters are ignored and missing padding is added, as that RFC wants of parsers.
    """
    match = _BYTE_SEQUENCE.fullmatch(value.strip())
    if match is None:
        return None
    text = match[1].rstrip("=")
    try:
        digest = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest.hex() if len(digest) == 32 else None


def content_digest(sha256_hex: str) -> str:
    """Give the `Content-Digest` of a body with this SHA-256."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256_hex)).decode('ascii')}:"


@dataclass(frozen=True, kw_only=True)
class ByteRange:
    """Bytes `start` to `stop`, without `stop`."""

    start: int
    stop: int


def read_range(request: HttpRequest, *, size: int, etag: str) -> ByteRange | None:
    """Read a single `Range` over `size` bytes.

    Returns
    -------
    ByteRange or None
        None for the whole body: no range, several ranges, an unknown unit, or an `If-Range` that
        names another version (RFC 9110, 14.2). Empty (`start == stop`) if it can't be satisfied.
    """
    match = _RANGE.fullmatch(request.headers.get("Range", "").strip())
    if match is None or match.groups() == ("", ""):
        return None
    if request.headers.get("If-Range", etag) != etag:
        return None
    first, last = (int(text[:20]) if text else None for text in match.groups())
    if first is None:
        return ByteRange(start=max(0, size - (last or 0)), stop=size)
    if last is not None and last < first:
        return None  # RFC 9110, 14.1.1: invalid, so the header is ignored
    stop = size if last is None else min(last + 1, size)
    return ByteRange(start=min(first, stop), stop=stop)


def is_unchanged(request: HttpRequest, etag: str) -> bool:
    """Tell whether `If-None-Match` names this version already."""
    value = request.headers.get("If-None-Match", "")
    known = {item.strip().removeprefix("W/") for item in value.split(",")}
    return etag in known or "*" in known

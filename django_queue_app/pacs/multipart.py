"""Bodies of several parts, as DICOMweb sends and takes them.

Read as they come, whole parts only, and nothing but a closing boundary counts as the end: WADO-RS
gives no Content-Length, so a connection that broke looks like a short answer otherwise.

References
----------
RFC 2046 5.1; DICOM PS3.18 8.6.1.2
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from email.message import Message

from django_queue_app.pacs.port import PacsBadAnswer, PacsUnavailable

# As large as an instance may be that is taken in.
MAX_PART_BYTES = 1 << 29
_MAX_HEADER_BYTES = 1 << 14


class CutShort(PacsUnavailable):
    """The body ended before its closing boundary."""

    default_message = "The image archive broke off in the middle of an answer; try again."
    default_message_ko = "영상 저장소의 응답이 중간에 끊겼습니다. 다시 시도하십시오."


def iter_parts(chunks: Iterable[bytes], content_type: str) -> Iterator[bytes]:
    """Yield the content of each part.

    Parameters
    ----------
    chunks : iterable of bytes
        The body as it arrives.
    content_type : str
        The header of the answer, which names the boundary.

    Raises
    ------
    PacsBadAnswer
        It is no body of several parts, or a part is too large.
    CutShort
    """
    delimiter = b"\r\n--" + _boundary_of(content_type)
    # The first boundary has no line before it.
    buffer, looked = bytearray(b"\r\n"), 0
    is_first = True
    for chunk in chunks:
        buffer += chunk
        while (at := buffer.find(delimiter, looked)) >= 0:
            after = at + len(delimiter)
            if len(buffer) < after + 2:
                break  # not yet known whether it is the last one
            if not is_first:
                yield _content_of(bytes(buffer[:at]))
            if buffer[after : after + 2] == b"--":
                return
            is_first = False
            del buffer[:after]
            looked = 0
        if len(buffer) > MAX_PART_BYTES + _MAX_HEADER_BYTES:
            raise PacsBadAnswer
        looked = max(0, len(buffer) - len(delimiter) - 2)
    raise CutShort


def _boundary_of(content_type: str) -> bytes:
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_param("boundary")
    if message.get_content_maintype() != "multipart" or not isinstance(boundary, str):
        raise PacsBadAnswer
    return boundary.encode("latin-1", "replace")


def _content_of(part: bytes) -> bytes:
    """Return what follows the part's header lines."""
    if part[:4] == b"\r\n\r\n":
        return part[4:]
    end = part.find(b"\r\n\r\n", 0, _MAX_HEADER_BYTES)
    if end < 0:
        raise PacsBadAnswer
    return part[end + 4 :]


def one_part(data: bytes, media_type: str) -> tuple[bytes, str]:
    """Return a body of one part, and its Content-Type."""
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: {media_type}\r\n\r\n".encode()
    body = head + data + f"\r\n--{boundary}--\r\n".encode()
    return body, f'multipart/related; type="{media_type}"; boundary={boundary}'

"""What the OpenAPI document says beside what ninja derives: statuses, headers, files."""

from __future__ import annotations

from typing import Any

from django_queue_app.api.schemas import Error

# Every authenticated call may be refused for its credentials, for too many wrong ones, and for a
# database that is away.
GUARDED = (401, 403, 429, 503)

_EXAMPLE_LEASE = "6f1c2d3e-4a5b-4c6d-8e7f-0a1b2c3d4e5f"


def answers(good: dict[int, Any], *errors: int, guarded: bool = True) -> dict[Any, Any]:
    """Give ninja's `response`: the good answers, and the statuses of errors with their schema."""
    statuses = {*errors, *(GUARDED if guarded else (503,))} - set(good)
    return {**good, **dict.fromkeys(sorted(statuses), Error)}


def header(name: str, description: str, *, required: bool = False, **schema: Any) -> dict[str, Any]:
    """Give one header parameter. Views read headers themselves, to answer 400 and not 422."""
    return {
        "in": "header",
        "name": name,
        "required": required,
        "description": description,
        "schema": {"type": "string", **schema},
    }


PREFER = header(
    "Prefer", "`respond-async`, or `wait=N` seconds (RFC 7240).", examples=["respond-async"]
)
IDEMPOTENCY_KEY = header(
    "Idempotency-Key",
    "A new UUID for each claim; once granted it is the lease.",
    required=True,
    format="uuid",
    examples=[_EXAMPLE_LEASE],
)
IF_MATCH = header(
    "If-Match",
    "The lease, in double quotes.",
    required=True,
    examples=[f'"{_EXAMPLE_LEASE}"'],
)
IF_MATCH_OPTIONAL = {**IF_MATCH, "required": False}
IF_NONE_MATCH = header("If-None-Match", "An ETag that the caller has.")
LAST_EVENT_ID = header("Last-Event-ID", "The id of the last event that the caller has seen.")
RANGE = header("Range", "One byte range.", examples=["bytes=0-1023"])
CONTENT_DIGEST = header(
    "Content-Digest",
    "SHA-256 of the body (RFC 9530).",
    required=True,
    examples=["sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"],
)


def file_answer(media_type: str) -> dict[str, Any]:
    """Give the content of an answer that is a file."""
    if media_type == "text/event-stream":
        # Readers disagree whether a schema is about the whole stream or about each event.
        return {"content": {media_type: {}}}
    if media_type == "application/json":
        return {"content": {media_type: {"schema": {"type": "object"}}}}
    return {"content": {media_type: {"schema": {"type": "string", "format": "binary"}}}}


def extra(
    *parameters: dict[str, Any],
    files: dict[int, str] | None = None,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Give ninja's `openapi_extra`.

    Parameters
    ----------
    *parameters : dict
        Header parameters.
    files : dict of int to str, optional
        Status to media type, for answers that are files.
    body : dict, optional
        The request body, where ninja doesn't read it.
    """
    given: dict[str, Any] = {}
    if parameters:
        given["parameters"] = list(parameters)
    if files:
        given["responses"] = {status: file_answer(kind) for status, kind in files.items()}
    if body:
        given["requestBody"] = body
    return given

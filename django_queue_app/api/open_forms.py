"""Forms that the contract leaves open: other spellings of one meaning, brought into ours.

`docs/api.md` shows the forms that we write. Workers of other people read the same contract and may
write, say, the digests of their files as a list. Whatever is neither stays as it is, for the schema
to refuse by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django_queue_app.api.headers import sha256_from

_DIGEST_KEYS = ("sha256", "digest")


def empty_if_null(value: Any) -> Any:
    """Take null for what was left out."""
    return "" if value is None else value


def no_list_if_null(value: Any) -> Any:
    """Take null for an empty list."""
    return [] if value is None else value


def names_of(value: Any) -> Any:
    """Take null for no models, and a described model for its name."""
    if value is None:
        return []
    if isinstance(value, list):
        return [one.get("name") if isinstance(one, Mapping) else one for one in value]
    return value


def coded(value: Any) -> Any:
    """Take a bare code for its value; its scheme is not guessed."""
    return {"value": value} if isinstance(value, str) else value


def digests_by_name(value: Any) -> Any:
    """Bring digests into name to hex: from a list of files, from objects, from `sha-256=:..:`."""
    if isinstance(value, list) and all(_is_named(one) for one in value):
        named = {one["name"]: one for one in value}
        value = named if len(named) == len(value) else value
    if isinstance(value, Mapping):
        return {name: _hex_of(one) for name, one in value.items()}
    return value


def _is_named(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("name"), str)


def _hex_of(value: Any) -> Any:
    if isinstance(value, Mapping):
        value = next((value[key] for key in _DIGEST_KEYS if key in value), None)
    if not isinstance(value, str):
        return value
    algorithm, _, encoded = value.partition("=")
    if algorithm.strip().lower() == "sha-256":
        return sha256_from(encoded) or value
    return value.lower().removeprefix("sha256:")


def result_and_artifacts(value: Any) -> Any:
    """Take `digests` for `artifacts`, and a result beside `success` for one under `result`.

    Existing workers put theirs there too, but name no files.
    """
    if not isinstance(value, Mapping):
        return value
    body = dict(value)
    if body.get("artifacts") is None:
        body["artifacts"] = body.get("digests")
    if body["artifacts"] is not None and body.get("result") is None:
        body["result"] = value if body.get("success") is True else None
    return body

"""Text from outside, made storable: databases refuse NUL and lone surrogates with a 500."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from django_queue_app.errors import InvalidRequest

# Deeper results are no results; it also keeps the recursion below from being driven by a caller.
_MAX_DEPTH = 12


def clean_text(value: str, limit: int) -> str:
    """Return `value` without control characters but line ends, at most `limit` characters."""
    text = value.encode("utf-8", "replace").decode("utf-8")
    return "".join(c for c in text if c.isprintable() or c in "\n\t").strip()[:limit]


def clean_json(value: Any, *, depth: int = 0) -> Any:
    """Return a storable copy of a JSON value.

    Raises
    ------
    InvalidRequest
        It is nested too deeply, or has a number that JSON can't hold.
    """
    if depth > _MAX_DEPTH:
        raise InvalidRequest("The result is nested too deeply.", "결과의 구조가 너무 깊습니다.")
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8").replace("\x00", "")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(
            "The result has a number that is not finite.", "결과에 유한하지 않은 수가 있습니다."
        )
    if isinstance(value, Mapping):
        return {
            clean_json(str(key), depth=depth): clean_json(item, depth=depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [clean_json(item, depth=depth + 1) for item in value]
    return value


def canonical(value: Any) -> str:
    """Return the one JSON text of a value, so that equal values have equal digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)

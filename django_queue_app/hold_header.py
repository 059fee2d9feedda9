"""What a view and the ASGI wrapper of `hold` tell each other about a call that waits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django_queue_app.wakeup import ChangeWish, ClaimWish, OutcomeWish, Wish

SCOPE_KEY = "django_queue_app.hold"
HOLD_HEADER = "X-Hold"


@dataclass(frozen=True, kw_only=True)
class Hold:
    """What a view asks the wrapper to wait for.

    Parameters
    ----------
    wait_s : float
        At most so long, counted from the first answer.
    wish : Wish
        What is waited for.
    is_deduplicated : bool
        Given back in the `Replay`, which would not know it otherwise.
    last_event : str
        For a stream of events: the id of the last one so far, given back in the `Replay`.
    """

    wait_s: float
    wish: Wish
    is_deduplicated: bool = False
    last_event: str = ""

    def to_header(self) -> str:
        """Give the header's value; JSON, since a model's name may hold any character."""
        body: dict[str, Any] = {"wait_s": self.wait_s}
        if isinstance(self.wish, OutcomeWish):
            body |= {"request_id": str(self.wish.request_id), "again": self.is_deduplicated}
        elif isinstance(self.wish, ChangeWish):
            seen = self.wish.seen.isoformat()
            body |= {"follow": str(self.wish.request_id), "seen": seen, "last": self.last_event}
        else:
            body |= {"lane": self.wish.lane, "models": sorted(self.wish.models)}
        return json.dumps(body)

    @classmethod
    def from_header(cls, value: str) -> Hold:
        """Read what `to_header` gave."""
        body = json.loads(value)
        if "request_id" in body:
            wish: Wish = OutcomeWish(request_id=UUID(body["request_id"]))
        elif "follow" in body:
            seen = datetime.fromisoformat(body["seen"])
            wish = ChangeWish(request_id=UUID(body["follow"]), seen=seen)
        else:
            wish = ClaimWish(lane=body["lane"], models=frozenset(body["models"]))
        return cls(
            wait_s=float(body["wait_s"]),
            wish=wish,
            is_deduplicated=bool(body.get("again")),
            last_event=body.get("last", ""),
        )


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What the wrapper tells the view in `scope[SCOPE_KEY]`.

    Parameters
    ----------
    request_id : UUID, optional
        The request that this call filed before it was held; None on the first pass and for claims.
    is_deduplicated : bool
        The call filed nothing: the same was under way.
    last_event : str, optional
        The id of the last event that was sent; None before the first pass.
    """

    request_id: UUID | None = None
    is_deduplicated: bool = False
    last_event: str | None = None

"""Full-jitter pauses: a site that comes back is not met by all its workers at once."""

from __future__ import annotations

import random
from collections.abc import Callable

from tenacity import RetryCallState
from tenacity.wait import wait_base

from worker.core.errors import ServerUnavailable

Draw = Callable[[float, float], float]


def full_jitter_s(
    failures: int, *, base_s: float = 1, longest_s: float = 60, draw: Draw = random.uniform
) -> float:
    """Give a pause drawn from 0 to ``base_s * 2 ** (failures - 1)``, at most `longest_s`."""
    # 2**64 s is longer than any limit; larger exponents would overflow a float.
    ceiling = min(longest_s, base_s * 2 ** min(max(failures - 1, 0), 64))
    return draw(0, ceiling)


class WaitForServer(wait_base):
    """tenacity's wait: full jitter, and never less than the site's Retry-After."""

    def __init__(self, *, longest_s: float, draw: Draw = random.uniform) -> None:
        self._longest_s = longest_s
        self._draw = draw

    def __call__(self, retry_state: RetryCallState) -> float:
        """Give the pause after `retry_state.attempt_number` failures."""
        pause_s = full_jitter_s(
            retry_state.attempt_number, longest_s=self._longest_s, draw=self._draw
        )
        error = retry_state.outcome.exception() if retry_state.outcome else None
        asked_s = error.retry_after_s if isinstance(error, ServerUnavailable) else None
        return max(pause_s, asked_s or 0.0)

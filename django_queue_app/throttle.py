"""How often one may call: counted in Django's cache, in windows of fixed length.

The counts are as shared as the cache is. Django's default cache lives in one process, so that a
site of N processes lets N times as much through; a site that wants one count for all of them
configures a shared cache (Redis, Memcached) in `CACHES`. The limits stop loops and guessing, they
are no accounting: their defaults lie far above what workers and pages do.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from django.conf import settings
from django.core.cache import cache

from django_queue_app import metrics

MINUTE_S = 60.0
LOGIN_WINDOW_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Limit:
    """So many calls in a window, by whatever name they are counted under.

    Parameters
    ----------
    name : str
        Of the limit; part of the cache's key and a label in the metrics.
    setting : str
        The setting that holds the number; 0 there means no limit.
    default : int
        Without that setting.
    window_s : float
        Length of a window in seconds.
    clock : callable
        Seconds since the epoch, the same in all processes; injected by tests.
    """

    name: str
    setting: str
    default: int
    window_s: float = MINUTE_S
    clock: Callable[[], float] = time.time

    @property
    def most(self) -> int:
        """Calls that a window lets through; 0: any number."""
        return int(getattr(settings, self.setting, self.default))

    def count(self, who: str) -> float:
        """Count one more call of `who`.

        Returns
        -------
        float
            0 if it is let through, else the seconds until the next window.
        """
        if not self.most:
            return 0.0
        key, left_s = self._window(who)
        cache.add(key, 0, timeout=self.window_s)
        try:
            count = cache.incr(key)
        except ValueError:  # dropped between the two: a cache may forget
            return 0.0
        return self._refusal(count > self.most, left_s)

    def is_spent(self, who: str) -> float:
        """Tell as `count` does, without counting, whether `who` has no call left."""
        key, left_s = self._window(who)
        return self._refusal(0 < self.most <= int(cache.get(key, 0)), left_s)

    def forget(self, who: str) -> None:
        """Give `who` the whole window again."""
        cache.delete(self._window(who)[0])

    def _window(self, who: str) -> tuple[str, float]:
        now = self.clock()
        number = int(now // self.window_s)
        # Hashed: a login name may hold what a cache takes for no key, and an address needn't lie
        # in a shared cache in the clear.
        digest = hashlib.sha256(who.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return f"segmentation-limit:{self.name}:{number}:{digest}", (
            number + 1
        ) * self.window_s - now

    def _refusal(self, is_refused: bool, left_s: float) -> float:
        if not is_refused:
            return 0.0
        metrics.LIMITED.labels(self.name).inc()
        return max(1.0, left_s)


WRONG_CREDENTIALS = Limit(
    name="wrong_credentials", setting="SEGMENTATION_LIMIT_WRONG_TOKENS", default=60
)
USER = Limit(name="user", setting="SEGMENTATION_LIMIT_USER_CALLS", default=30_000)
WORKER = Limit(name="worker", setting="SEGMENTATION_LIMIT_WORKER_CALLS", default=60_000)
ADDRESS = Limit(name="address", setting="SEGMENTATION_LIMIT_ANONYMOUS_CALLS", default=6_000)
# A password can be guessed, a token of 256 bits can't: here even a right one waits.
LOGIN_OF_NAME = Limit(
    name="login",
    setting="SEGMENTATION_LIMIT_LOGIN_FAILURES",
    default=10,
    window_s=LOGIN_WINDOW_S,
)
LOGIN_OF_ADDRESS = Limit(
    name="login_address",
    setting="SEGMENTATION_LIMIT_LOGIN_FAILURES_OF_ADDRESS",
    default=100,
    window_s=LOGIN_WINDOW_S,
)

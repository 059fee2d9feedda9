"""The reference site with a hook for faults; see `hooks`."""

from __future__ import annotations

from reference_site.settings import *  # noqa: F403
from reference_site.settings import DATABASES, MIDDLEWARE

MIDDLEWARE = ["tests.faults.hooks.Faults", *MIDDLEWARE]
# A database that is locked or away is told after this time: the site's own patience of 10 and 20 s
# would only make the tests long.
_PATIENCE_S = 1
_OPTIONS = DATABASES["default"]["OPTIONS"]
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    _OPTIONS["timeout"] = _PATIENCE_S
elif isinstance(_OPTIONS.get("pool"), dict):
    _OPTIONS["pool"]["timeout"] = _PATIENCE_S

"""The reference site with a hook for faults; see `hooks`."""

from __future__ import annotations

from reference_site.settings import *  # noqa: F403
from reference_site.settings import DATABASES, MIDDLEWARE

MIDDLEWARE = ["tests.faults.hooks.Faults", *MIDDLEWARE]
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # A locked database is told after this time; the site's own 20 s would only make the tests long.
    DATABASES["default"]["OPTIONS"]["timeout"] = 1

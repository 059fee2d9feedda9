"""Entry for an ASGI server: Django, with long waits held outside of it."""

from __future__ import annotations

import os
from typing import Any, cast

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reference_site.settings")

from django_queue_app.asgi_handler import get_application

_django = get_application()

# Django must be set up before the app's modules are imported.
from django_queue_app.hold import hold_long_polls  # noqa: E402

# Django's types name dictionaries where the specification has mappings.
application = hold_long_polls(cast(Any, _django))

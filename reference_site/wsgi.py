"""Entry for a WSGI server: everything works, but a waiting call holds a thread."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reference_site.settings")
application = get_wsgi_application()

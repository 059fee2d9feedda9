"""The reference site's settings, with the queue that ours is compared with beside it."""

from reference_site.settings import *  # noqa: F403
from reference_site.settings import INSTALLED_APPS as _APPS

INSTALLED_APPS = [*_APPS, "django_tasks_db"]
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}

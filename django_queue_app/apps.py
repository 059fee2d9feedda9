"""Django's entry to this app."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class QueueConfig(AppConfig):
    """Segmentation requests, their queue, and the API for front ends and workers."""

    name = "django_queue_app"
    verbose_name = _("MRI segmentation")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks, begin to read what is filed, and name the tables."""
        from django_queue_app import checks, names, preparation  # noqa: F401

        names.give_names(self)

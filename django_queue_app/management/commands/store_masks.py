"""`manage.py store_masks [--all]`: put finished masks into the image archive now."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from django_queue_app import storing
from django_queue_app.management.database_command import DatabaseCommand


class Command(DatabaseCommand):
    """Store masks that are due, or all that are not stored."""

    help = "Put finished masks into the image archive; --all also tries those it has refused."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the option."""
        parser.add_argument(
            "--all", action="store_true", help="do not wait for pauses, and try refused ones again"
        )

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Store and say how many."""
        stored = storing.retry_all() if options["all"] else storing.retry_due(limit=1000)
        left = storing.unsaved().count()
        self.stdout.write(f"{stored} stored, {left} not stored yet")

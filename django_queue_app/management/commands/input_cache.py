"""`manage.py input_cache show|trim|clear`: the images that are kept ready for workers."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from django_queue_app import input_cache


class Command(BaseCommand):
    """Show, bound or wipe the cache of inputs."""

    help = "Show how full the cache of pseudonymised inputs is, trim it to its bounds, or wipe it."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the verb."""
        parser.add_argument("verb", choices=["show", "trim", "clear"])

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Do it and say how full the cache is then."""
        if options["verb"] == "clear":
            removed = input_cache.clear()
            self.stdout.write(f"{removed.files} files removed, {removed.bytes} bytes")
            return
        if options["verb"] == "trim":
            input_cache.trim()
        found = input_cache.use()
        self.stdout.write(f"{found.files} files, {found.bytes} bytes")

"""`manage.py prune [--dry-run] [--json]`: remove rows and files that nobody needs any more."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_queue_app import input_cache, pruning
from django_queue_app.conf import conf
from django_queue_app.errors import ServiceError
from django_queue_app.management.database_command import DatabaseCommand

WORDS = {
    "requests": "finished requests, with their runs, events and files",
    "digests": "digests of images that are gone or that nobody asked for",
    "series": "series of the archive that nobody looked at",
    "workers": "workers that were not heard of",
}


class Command(DatabaseCommand):
    """Remove what is older than the settings keep it."""

    help = (
        "Remove rows and files that are older than the settings keep them and that no unfinished "
        "request needs. Run it once a day."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--dry-run", action="store_true", help="count, remove nothing")
        parser.add_argument("--json", action="store_true", help="for programs")

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Remove and say how many of each kind."""
        is_dry = options["dry_run"]
        try:
            found = asdict(pruning.prune(is_dry=is_dry))
        except ServiceError as error:
            raise CommandError(f"Not all was removed: {error.message} Run it again.") from error
        if not is_dry:
            input_cache.trim()
        if options["json"]:
            self.stdout.write(json.dumps({"is_dry_run": is_dry, **found}))
            return
        for name, count in found.items():
            self.stdout.write(f"{count:8d} {WORDS[name]}")
        self.stdout.write("would be removed" if is_dry else "removed")
        if not conf.keep_requests_days:
            self.stdout.write(
                "Finished requests are kept for ever (SEGMENTATION_KEEP_REQUESTS_DAYS)."
            )

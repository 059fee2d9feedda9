"""A management command that says in one sentence when the database can't be used."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, ProgrammingError


class DatabaseCommand(BaseCommand):
    """Base of the commands that people type on a site that may not be set up yet."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run the command; a database without tables is told as what it is."""
        try:
            return super().execute(*args, **options)
        except (OperationalError, ProgrammingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CommandError(
                f"The database can't be used ({reason}). Run 'manage.py migrate' if that was not "
                "done yet; else check SEGMENTATION_DATA_DIR and DATABASE_URL."
            ) from error

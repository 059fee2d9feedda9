"""Import DICOM files from folders into the embedded store."""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django.db import transaction

from django_queue_app.errors import ServiceError
from django_queue_app.management.database_command import DatabaseCommand
from django_queue_app.pacs import get_pacs
from django_queue_app.pacs.intake import Intake, Report
from django_queue_app.pacs.port import SeriesSummary

# A transaction an instance would cost an fsync each; one over all would lock the queue out.
BATCH = 64


class Command(DatabaseCommand):
    """`manage.py import_dicom DIR...`."""

    help = (
        "Import every DICOM file below the given folders (or single files and zips), whatever "
        "its name. What is no DICOM is counted and left alone; importing again changes nothing."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("paths", nargs="+", type=Path, metavar="DIR")
        parser.add_argument("--json", action="store_true", help="print the summary as JSON")

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Import and print what became of the files."""
        intake = Intake(get_pacs())
        missing = [str(path) for path in options["paths"] if not path.exists()]
        if missing:
            raise CommandError(f"There is no {', '.join(missing)}; check the path.")
        files = iter(_files_below(options["paths"]))
        try:
            while batch := list(islice(files, BATCH)):
                _take(intake, batch)
                self._show_progress(intake.report)
        except ServiceError as error:
            raise CommandError(error.message) from error
        self._show_summary(intake.report, as_json=options["json"])
        if not intake.report.series:
            raise CommandError("No DICOM instance was imported; check the folder.")

    def _show_progress(self, report: Report) -> None:
        if self.stderr.isatty():
            self.stderr.write(f"\r{report.files} files", ending="")
            self.stderr.flush()

    def _show_summary(self, report: Report, *, as_json: bool) -> None:
        if self.stderr.isatty():
            self.stderr.write("\r", ending="")
        listed = [one for one in get_pacs().list_series() if one.id in report.series]
        if as_json:
            self.stdout.write(json.dumps(_to_json(report, listed), ensure_ascii=False))
            return
        for line in _lines(report, listed):
            self.stdout.write(line)


def _files_below(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_file():
            yield path
            continue
        for folder, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                candidate = Path(folder, name)
                if candidate.is_file():
                    yield candidate


@transaction.atomic
def _take(intake: Intake, batch: list[Path]) -> None:
    for path in batch:
        try:
            intake.take_file(path)
        except OSError as error:
            raise CommandError(f"{path} can't be read: {error.strerror}.") from error


def _lines(report: Report, listed: list[SeriesSummary]) -> Iterator[str]:
    """Yield the summary; no patient data, since a terminal's log is kept."""
    study = ""
    for one in listed:
        if one.study_id != study:
            study = one.study_id
            yield f"study {study}"
        guess = f", {one.sequence_type}?" if one.sequence_type else ""
        yield f"  series {one.id}  {one.modality} {one.slices} slices{guess}  {one.description}"
    yield (
        f"{report.stored} stored, {report.already_stored} already there, "
        f"{report.conflicting} conflicting, {report.refused} refused, "
        f"{report.skipped} skipped (no DICOM)"
    )
    for problem in report.problems:
        yield f"  {problem.name}: {problem.error.message}"


def _to_json(report: Report, listed: list[SeriesSummary]) -> dict[str, Any]:
    return {
        "stored": report.stored,
        "already_stored": report.already_stored,
        "conflicting": report.conflicting,
        "refused": report.refused,
        "skipped": report.skipped,
        "series": [
            {
                "id": one.id,
                "study_id": one.study_id,
                "description": one.description,
                "modality": one.modality,
                "slices": one.slices,
                "sequence_type": one.sequence_type,
                "instances_imported": report.series[one.id],
            }
            for one in listed
        ],
        "problems": [
            {"file": one.name, "code": one.error.code, "error": one.error.message}
            for one in report.problems
        ],
    }

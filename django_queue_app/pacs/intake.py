"""Take instances in from bodies, zips and folders, and say what became of each.

A zip is hostile until read: names are never used as paths, links and archives inside are refused,
declared sizes are not believed, and its directory is bounded before it is loaded.
"""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from django_queue_app import served
from django_queue_app.errors import ServiceError
from django_queue_app.pacs.port import (
    ConflictingInstance,
    InvalidInstance,
    Pacs,
    StoredInstance,
)
from django_queue_app.pacs.structure import PREAMBLE_BYTES

MAX_INSTANCE_BYTES = 1 << 29
MAX_ENTRIES = 50_000
MAX_UNPACKED_BYTES = 1 << 33
MAX_DIRECTORY_BYTES = 1 << 24
# A report names so many files that were not taken; the rest are counted.
MAX_NAMED = 200

_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_END_MAGIC, _LOCATOR_MAGIC, _END64_MAGIC = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
_END_BYTES, _LOCATOR_BYTES, _MOST_COMMENT = 22, 20, 65_535
_ENCRYPTED = 0x1


class BadArchive(ServiceError):
    """A zip that can't be read at all."""

    code = "bad_zip"
    http_status = 400
    default_message = "This zip file can't be read; make it again."
    default_message_ko = "zip 파일을 읽을 수 없습니다. 다시 만들어 보내십시오."


class ArchiveTooLarge(ServiceError):
    """A zip with too many entries, or too many bytes once unpacked."""

    code = "archive_too_large"
    http_status = 413
    default_message = "This zip file unpacks to more than the site takes; send it in parts."
    default_message_ko = "압축을 푼 크기가 허용 한도를 넘습니다. 나누어 보내십시오."


@dataclass(frozen=True, kw_only=True)
class FileProblem:
    """A file that was not taken, and why; `index` counts files from 1 in their order."""

    index: int
    name: str
    error: ServiceError


@dataclass(kw_only=True)
class Report:
    """What became of the files."""

    stored: int = 0
    already_stored: int = 0
    conflicting: int = 0
    refused: int = 0
    skipped: int = 0
    series: dict[str, int] = field(default_factory=dict)
    instance_ids: list[str] = field(default_factory=list)
    problems: list[FileProblem] = field(default_factory=list)

    @property
    def files(self) -> int:
        """How many files were looked at."""
        return self.stored + self.already_stored + self.conflicting + self.refused + self.skipped


class Intake:
    """Puts files into an archive and keeps the report."""

    def __init__(self, pacs: Pacs) -> None:
        self._pacs = pacs
        self._index = 0
        self.report = Report()

    def take(self, name: str, data: bytes) -> None:
        """Store one instance, or note why not."""
        self._index += 1
        try:
            stored = self._pacs.store_instance(data)
        except InvalidInstance as error:
            self._refuse(name, error)
            return
        self._note(name, stored, data)

    def skip(self) -> None:
        """Count a file that is no DICOM."""
        self._index += 1
        self.report.skipped += 1

    def take_file(self, path: Path) -> None:
        """Store a file of a folder, or unpack it if it is a zip; skip what is no DICOM."""
        with path.open("rb") as file:
            start = file.read(PREAMBLE_BYTES)
            if start[:4] in _ZIP_MAGIC:
                self.take_zip(file)
            elif not is_dicom(start) or path.name.upper() == "DICOMDIR":
                self.skip()
            elif path.stat().st_size > MAX_INSTANCE_BYTES:
                self._index += 1
                self._refuse(path.name, _too_large())
            else:
                self.take(path.name, start + file.read())

    def take_zip(self, file: IO[bytes]) -> None:
        """Store every instance of a zip.

        Raises
        ------
        BadArchive, ArchiveTooLarge
        """
        with open_zip(file) as archive:
            left = MAX_UNPACKED_BYTES
            for entry in archive.infolist():
                # Not `is_dir()`: before Python 3.12 it fails for an entry without a name.
                if not entry.filename.endswith("/"):
                    left -= self._take_entry(archive, entry, left)

    def _take_entry(self, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, left: int) -> int:
        try:
            _require_plain(entry)
            data = _read_entry(archive, entry, min(left, MAX_INSTANCE_BYTES))
        except InvalidInstance as error:
            self._index += 1
            self._refuse(entry.filename, error)
            return 0
        if data is None:
            self.skip()
            return PREAMBLE_BYTES
        self.take(entry.filename, data)
        return len(data)

    def _refuse(self, name: str, error: ServiceError) -> None:
        self.report.refused += 1
        self._name(name, error)

    def _note(self, name: str, stored: StoredInstance, data: bytes) -> None:
        report = self.report
        report.series[stored.series_id] = report.series.get(stored.series_id, 0) + 1
        if len(report.instance_ids) < MAX_NAMED:
            report.instance_ids.append(stored.instance_id)
        if stored.is_new:
            report.stored += 1
            served.remember_digest(stored.instance_id, data)
        elif stored.is_conflicting:
            report.conflicting += 1
            self._name(name, ConflictingInstance())
        else:
            report.already_stored += 1

    def _name(self, name: str, error: ServiceError) -> None:
        if len(self.report.problems) < MAX_NAMED:
            shown = "".join(c for c in name[-200:] if c.isprintable())
            self.report.problems.append(FileProblem(index=self._index, name=shown, error=error))


def is_dicom(start: bytes) -> bool:
    """Tell by its first 132 bytes whether a file is DICOM."""
    return start[128:PREAMBLE_BYTES] == b"DICM"


def is_zip(start: bytes) -> bool:
    """Tell by its first four bytes whether a file is a zip."""
    return start[:4] in _ZIP_MAGIC


@contextmanager
def open_zip(file: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    """Open a zip after its directory was found to be of bearable size.

    Raises
    ------
    BadArchive, ArchiveTooLarge
    """
    try:
        if _directory_bytes(file) > MAX_DIRECTORY_BYTES:
            raise ArchiveTooLarge
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
        raise BadArchive from error
    with archive:
        if len(archive.infolist()) > MAX_ENTRIES:
            raise ArchiveTooLarge
        yield archive


def _directory_bytes(file: IO[bytes]) -> int:
    """Return the largest size that the zip gives for its own directory.

    Python loads the whole directory at once, several hundred bytes of memory an entry.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_BYTES - _MOST_COMMENT - _LOCATOR_BYTES))
    tail = file.read()
    end = tail.rfind(_END_MAGIC)
    if end < 0 or len(tail) - end < _END_BYTES:
        raise BadArchive
    (directory_bytes,) = struct.unpack_from("<I", tail, end + 12)
    locator = tail[max(0, end - _LOCATOR_BYTES) : end]
    if locator[:4] != _LOCATOR_MAGIC:
        return int(directory_bytes)
    (offset,) = struct.unpack_from("<Q", locator, 8)
    file.seek(offset if offset < size else size)
    record = file.read(56)
    if record[:4] != _END64_MAGIC:
        raise BadArchive
    return int(struct.unpack_from("<Q", record, 40)[0])


def _require_plain(entry: zipfile.ZipInfo) -> None:
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise InvalidInstance(
            "A link in a zip is not followed; put the file itself into it.",
            "zip 안의 링크는 사용할 수 없습니다. 파일 자체를 넣으십시오.",
            code="link",
        )
    if entry.flag_bits & _ENCRYPTED:
        raise InvalidInstance(
            "This entry of the zip is encrypted; make the zip without a password.",
            "암호화된 zip입니다. 암호 없이 만들어 보내십시오.",
            code="encrypted",
        )


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes | None:
    """Return an entry's bytes, or None if it is no DICOM; read no more than the limit."""
    try:
        with archive.open(entry) as stream:
            start = stream.read(PREAMBLE_BYTES)
            _refuse_nested(start)
            if not is_dicom(start):
                return None
            data = start + stream.read(max(1, limit - PREAMBLE_BYTES + 1))
    except InvalidInstance:
        raise
    except Exception as error:  # zlib, lzma, struct and zipfile each raise their own
        raise InvalidInstance(
            "This entry of the zip is damaged; make the zip again.",
            "zip 항목이 손상되었습니다. 다시 만드십시오.",
            code="damaged_entry",
        ) from error
    if len(data) > limit:
        if limit < MAX_INSTANCE_BYTES:
            raise ArchiveTooLarge
        raise _too_large()
    return data


def _refuse_nested(start: bytes) -> None:
    if is_zip(start):
        raise InvalidInstance(
            "An archive inside a zip is not opened; unpack it first.",
            "zip 안의 압축 파일은 열지 않습니다. 먼저 푸십시오.",
            code="nested_archive",
        )


def _too_large() -> InvalidInstance:
    return InvalidInstance(
        f"One instance may have at most {MAX_INSTANCE_BYTES >> 20} MiB; split the object.",
        f"인스턴스 하나는 최대 {MAX_INSTANCE_BYTES >> 20} MiB입니다. 나누어 보내십시오.",
        code="too_large",
    )

"""Finds the DICOM series in local folders, for `segment`: one folder, one series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.core.errors import SeriesInvalid
from worker.core.job import SeriesFiles

_TAGS = ["SeriesInstanceUID", "SeriesNumber", "SOPClassUID"]
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
_IMAGE_SUFFIXES = {".dcm", ".ima"}


@dataclass(frozen=True, kw_only=True)
class FoundSeries:
    """One series in a folder."""

    uid: str
    number: str
    files: tuple[Path, ...]


def read_arguments(arguments: Sequence[str]) -> tuple[SeriesFiles, ...]:
    """Give the series of each argument, in their order: the network's channel order.

    Parameters
    ----------
    arguments : sequence of str
        Folders of one series each, or ``DIR#N`` for the series with Series Number N of a folder
        that holds several.

    Raises
    ------
    SeriesInvalid
        No folder, no DICOM in it, several series without a choice, or one series twice.
    """
    found = [_choose(argument) for argument in arguments]
    uids = [series.uid for series in found]
    for position, uid in enumerate(uids):
        if uid in uids[:position]:
            raise SeriesInvalid(
                f"{arguments[position]} and {arguments[uids.index(uid)]} are the same series; give "
                "each sequence once.",
                code="duplicate_series",
            )
    return tuple(SeriesFiles(series_id=item.uid, files=item.files) for item in found)


def choose_main(main: str | None, arguments: Sequence[str]) -> int:
    """Give the position of the main series: a number from 1, one of the folders, or the first."""
    if main is None:
        return 0
    if main in arguments:
        return list(arguments).index(main)
    if main.isdecimal() and 1 <= int(main) <= len(arguments):
        return int(main) - 1
    raise SeriesInvalid(
        f"--main {main}: expected a number from 1 to {len(arguments)} or one of the folders.",
        code="unknown_main",
    )


def find_series(folder: Path) -> tuple[FoundSeries, ...]:
    """Give every series with files in a folder or below it; what is no DICOM is passed over.

    Raises
    ------
    SeriesInvalid
        No such folder, or a DICOM file whose head is damaged: it may belong to any of the series.
    """
    if not folder.is_dir():
        raise SeriesInvalid(f"There is no folder {folder}.", code="no_folder")
    files: dict[str, list[Path]] = {}
    numbers: dict[str, str] = {}
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        head = _read_head(path)
        if head is not None:
            uid, number = head
            files.setdefault(uid, []).append(path)
            numbers[uid] = number
    return tuple(
        FoundSeries(uid=uid, number=numbers[uid], files=tuple(paths))
        for uid, paths in files.items()
    )


def _choose(argument: str) -> FoundSeries:
    folder, number = Path(argument), None
    if not folder.exists() and "#" in argument:
        name, _, number = argument.rpartition("#")
        folder = Path(name)
    found = find_series(folder)
    if not found:
        raise SeriesInvalid(f"There are no DICOM images in {folder}.", code="no_images")
    if number is not None:
        found = tuple(series for series in found if series.number == number)
        if not found:
            raise SeriesInvalid(f"No series in {folder} has number {number}.", code="no_images")
    if len(found) > 1:
        listed = ", ".join(f"{item.number} ({len(item.files)} files)" for item in found)
        raise SeriesInvalid(
            f"{folder} holds {len(found)} series, with the numbers {listed}: give each sequence a "
            f"folder of its own, or choose one as '{folder}#NUMBER'.",
            code="multiple_series",
        )
    return found[0]


def _read_head(path: Path) -> tuple[str, str] | None:
    head = _parse_head(path)
    if head is None:
        if _claims_to_be_dicom(path):
            raise SeriesInvalid(
                f"{path} is damaged or cut short: fetch it again, or take it out of the folder.",
                code="truncated",
            )
        return None
    uid, number, sop_class = head
    if sop_class == _MEDIA_DIRECTORY:
        return None
    if not uid:
        raise SeriesInvalid(
            f"{path} does not say to which series it belongs, or is cut short: fetch it again, or "
            "take it out of the folder.",
            code="truncated",
        )
    return uid, number


def _claims_to_be_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            is_marked = file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise SeriesInvalid(
            f"{path} can't be opened ({error.strerror}): give this user the right to read it.",
            code="unreadable",
        ) from None
    return is_marked or (path.suffix.lower() in _IMAGE_SUFFIXES and not path.name.startswith("."))


def _parse_head(path: Path) -> tuple[str, str, str] | None:
    # Here and not above: pydicom takes a second to import, and most commands don't need it.
    from worker.adapters.dicom_file import read_head

    head = read_head(path, _TAGS)
    if head is None:
        return None
    uid, number, sop_class = (str(head.get(keyword) or "") for keyword in _TAGS)
    if not sop_class:
        sop_class = str(head.file_meta.get("MediaStorageSOPClassUID") or "")
    return uid, number, sop_class

from __future__ import annotations

import io
import json
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from django_queue_app.pacs import get_pacs, intake
from django_queue_app.pacs.index import Instance, ServedDigest
from tests.support import small_series

pytestmark = pytest.mark.django_db


def make_zip(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def take(data: bytes) -> intake.Report:
    taken = intake.Intake(get_pacs())
    taken.take_zip(io.BytesIO(data))
    return taken.report


def test_names_in_a_zip_are_never_paths(tmp_path: Path, site_folder: Path) -> None:
    first, second, third = small_series.mr_series()
    before = set(tmp_path.parent.rglob("*"))
    report = take(
        make_zip({"../../evil.dcm": first, "/etc/evil": second, "C:\\x\\..\\evil": third})
    )
    assert (report.stored, report.refused) == (3, 0)
    outside = set(tmp_path.parent.rglob("*")) - before
    assert not [path for path in outside if site_folder not in path.parents]
    assert not [path for path in site_folder.rglob("*") if "evil" in path.name]


def test_links_nested_archives_and_others_are_told_one_by_one() -> None:
    first, *_ = small_series.mr_series()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("link.dcm")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("inner.zip", make_zip({"a": first}))
        archive.writestr("readme.txt", "no DICOM")
        archive.writestr("folder/", "")
        archive.writestr("short.dcm", first[:-40])
        archive.writestr("good", first)
    report = take(buffer.getvalue())
    assert (report.stored, report.refused, report.skipped) == (1, 3, 1)
    codes = [problem.error.code for problem in report.problems]
    assert codes == ["link", "nested_archive", "truncated"]
    assert [problem.index for problem in report.problems] == [1, 2, 4]


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_INSTANCE_BYTES", 1 << 20)
    bomb = bytes(128) + b"DICM" + bytes(50 << 20)
    data = make_zip({"bomb.dcm": bomb, "zeros": bytes(50 << 20)})
    report = take(data)
    assert [problem.error.code for problem in report.problems] == ["too_large"]
    assert report.skipped == 1


def test_a_declared_size_that_lies_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_INSTANCE_BYTES", 1 << 20)
    data = bytearray(make_zip({"bomb.dcm": bytes(128) + b"DICM" + bytes(50 << 20)}))
    directory = data.rindex(b"PK\x01\x02")
    struct.pack_into("<I", data, directory + 24, 1000)  # uncompressed size
    struct.pack_into("<I", data, 22, 1000)
    report = take(bytes(data))
    assert report.refused == 1
    assert not Instance.objects.exists()


def test_all_entries_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    files = small_series.mr_series()
    monkeypatch.setattr(intake, "MAX_UNPACKED_BYTES", len(files[0]) + 500)
    with pytest.raises(intake.ArchiveTooLarge):
        take(make_zip({str(n): data for n, data in enumerate(files)}))
    monkeypatch.setattr(intake, "MAX_ENTRIES", 2)
    with pytest.raises(intake.ArchiveTooLarge):
        take(make_zip({str(n): data for n, data in enumerate(files)}))


def test_a_huge_directory_is_refused_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_DIRECTORY_BYTES", 1000)
    with pytest.raises(intake.ArchiveTooLarge):
        take(make_zip({f"{n:03d}": b"" for n in range(100)}))


@pytest.mark.parametrize("data", [b"PK\x03\x04", b"PK\x05\x06" + bytes(17), b"PK\x03\x04" * 99])
def test_a_broken_zip_is_refused(data: bytes) -> None:
    with pytest.raises(intake.BadArchive):
        take(data)


def test_a_damaged_entry_does_not_stop_the_others() -> None:
    first, second, _ = small_series.mr_series()
    data = bytearray(make_zip({"a": first, "b": second}, zipfile.ZIP_STORED))
    place = data.index(b"DICM") + 300
    data[place] ^= 0xFF
    report = take(bytes(data))
    assert report.stored == 1
    assert [problem.error.code for problem in report.problems] == ["damaged_entry"]


def test_digests_are_ready_after_import() -> None:
    take(make_zip({str(n): data for n, data in enumerate(small_series.mr_series())}))
    assert ServedDigest.objects.count() == 3


def run(*arguments: object) -> dict[str, Any]:
    output = io.StringIO()
    call_command("import_dicom", *map(str, arguments), "--json", stdout=output)
    answer: dict[str, Any] = json.loads(output.getvalue())
    return answer


def test_folders_are_imported_whatever_the_names(tmp_path: Path) -> None:
    files = small_series.mr_series(description="T1 post gd")
    deep = tmp_path / "하나" / "b"
    deep.mkdir(parents=True)
    (deep / "no extension").write_bytes(files[0])
    (tmp_path / "x.jpg").write_bytes(files[1])
    (tmp_path / "all.zip").write_bytes(make_zip({"1": files[2]}))
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / "cut.dcm").write_bytes(files[0][:-9])
    answer = run(tmp_path)
    assert (answer["stored"], answer["skipped"], answer["refused"]) == (3, 1, 1)
    (series,) = answer["series"]
    assert (series["slices"], series["sequence_type"]) == (3, "T1c")
    assert answer["problems"][0]["code"] == "truncated"
    again = run(tmp_path)
    assert (again["stored"], again["already_stored"]) == (0, 3)


def test_the_summary_names_no_patient(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(small_series.mr_series()[0])
    output = io.StringIO()
    call_command("import_dicom", str(tmp_path), stdout=output)
    assert "1 stored" in output.getvalue()
    assert "Phantom" not in output.getvalue()
    assert "P-1" not in output.getvalue()


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No DICOM"):
        run(tmp_path)
    with pytest.raises(CommandError, match="There is no"):
        run(tmp_path / "nowhere")


@pytest.mark.real_data
def test_the_real_series_are_imported(t1_series_dir: Path, vendor_dir: Path) -> None:
    answer = run(t1_series_dir, vendor_dir)
    assert answer["refused"] == 0
    by_description = {one["description"]: one for one in answer["series"]}
    t1 = by_description["T1 MPRAGE axial 1mm"]
    assert (t1["slices"], t1["sequence_type"]) == (256, "T1")
    instances = get_pacs().describe_series(t1["id"]).instances
    heights = [one.position[2] for one in instances if one.position]
    assert heights == sorted(heights)
    assert len(set(heights)) == 256

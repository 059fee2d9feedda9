"""Writes on a disk without room: nothing torn, one sentence, and all well once there is room."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("limits are POSIX's here", allow_module_level=True)
import resource

from tests.unit.worker_daemon.test_outbox_states import FAILURE, FakeServer, a_job, a_result
from worker import durable
from worker.case_child import error_message
from worker.core.errors import DiskFull, Unauthorized
from worker.delivery import Delivered, deliver
from worker.lockfile import WorkFolderLock
from worker.log import configure
from worker.outbox import Entry, Outbox
from worker.room import REMEMBERED_S, Room
from worker.settings import LogSettings


@contextmanager
def no_room(bytes_left: int = 0) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes: the system says EFBIG for real."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    outbox = Outbox(tmp_path)
    outbox.open()
    return outbox


def worked(outbox: Outbox) -> Entry:
    entry = outbox.begin()
    outbox.save_job(entry, a_job(entry.lease_id))
    for folder, name in ((entry.inputs_dir, "0.dcm"), (entry.outputs_dir, "mask.dcm")):
        folder.mkdir()
        (folder / name).write_bytes(b"bytes")
    return entry


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    durable.write_json(path, {"id": "old"})
    before = path.read_bytes()
    with no_room(8), pytest.raises(DiskFull, match=r"is full .*: free some space"):
        durable.write_json(path, {"id": "new", "more": "x" * 10_000})
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["job.json"], "no torn temporary file"


def test_a_lease_that_could_not_be_written_leaves_no_folder(outbox: Outbox) -> None:
    with no_room(), pytest.raises(DiskFull):
        outbox.begin()
    assert outbox.entries() == []
    assert outbox.begin()


def test_a_result_that_does_not_fit_is_no_result(outbox: Outbox) -> None:
    entry = worked(outbox)
    with no_room(), pytest.raises(DiskFull):
        outbox.finish(entry, a_result())
    assert entry.end() is None
    assert not entry.inputs_dir.exists(), "the images made room first"
    outbox.finish(entry, a_result())
    assert entry.end() == a_result()


def test_a_result_fits_once_the_images_made_room(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = worked(outbox)
    write = durable.write_json

    def write_where_there_is_room(path: Path, body: dict[str, object]) -> None:
        if entry.inputs_dir.exists():
            raise DiskFull("m")
        write(path, body)

    monkeypatch.setattr("worker.outbox.write_json", write_where_there_is_room)
    outbox.finish(entry, a_result())
    assert entry.end() == a_result()


def test_a_failure_that_does_not_fit_leaves_the_job_for_the_next_start(outbox: Outbox) -> None:
    entry = worked(outbox)
    with no_room(), pytest.raises(DiskFull):
        outbox.fail(entry, FAILURE)
    assert (entry.job(), entry.end()) == (a_job(entry.lease_id), None)


def test_a_refused_result_stays_where_it_is_until_its_reason_can_be_written(
    outbox: Outbox,
) -> None:
    entry = worked(outbox)
    outbox.finish(entry, a_result())
    with no_room():
        outcome = deliver(outbox, FakeServer(Unauthorized("m")), entry, a_result())
    assert outcome is Delivered.KEPT
    assert entry.end() == a_result()
    assert deliver(outbox, FakeServer(Unauthorized("m")), entry, a_result()) is Delivered.REFUSED


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_the_child_says_plainly_that_the_disk_is_full(number: int) -> None:
    message = error_message(OSError(number, "No room"))
    assert (message["code"], message["retryable"]) == ("disk_full", True)
    assert "free some space" in message["message"]


def test_the_lock_holds_without_room_for_its_text(tmp_path: Path) -> None:
    lock = WorkFolderLock(tmp_path)
    with no_room():
        lock.acquire()
    lock.release()


def test_a_log_without_room_says_so_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "worker.log"
    settings = LogSettings(level="info", format="text", file=path, max_bytes=10_000, backups=1)
    kept = list(logging.getLogger().handlers)
    with capfd.disabled():
        pass
    try:
        configure(settings)
        (file,) = [h for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler)]
        told: list[bytes] = []
        with pytest.MonkeyPatch.context() as patch, no_room():
            patch.setattr("os.write", lambda _, text: told.append(text))
            for _ in range(3):
                file.emit(logging.makeLogRecord({"msg": "event", "levelname": "INFO"}))
        assert len(told) == 1
        assert b"can't be written (File too large)" in told[0]
    finally:
        for handler in list(logging.getLogger().handlers):
            if handler not in kept:
                logging.getLogger().removeHandler(handler)
                handler.close()
        for handler in kept:
            if handler not in logging.getLogger().handlers:
                logging.getLogger().addHandler(handler)


def test_a_worker_without_room_waits_for_more_than_was_too_little(tmp_path: Path) -> None:
    free = [500]
    room = Room(tmp_path, 400, free=lambda _: free[0])
    room.check()
    room.was_too_little()
    with pytest.raises(DiskFull, match="takes no request"):
        room.check()
    free[0] = 501
    room.check()
    free[0] = 399
    with pytest.raises(DiskFull):
        room.check()


def test_what_was_too_little_once_is_tried_again_after_a_while(tmp_path: Path) -> None:
    now = [0.0]
    room = Room(tmp_path, 400, free=lambda _: 500, now=lambda: now[0])
    room.check()
    room.was_too_little()
    now[0] = REMEMBERED_S - 1
    with pytest.raises(DiskFull):
        room.check()
    now[0] = REMEMBERED_S
    room.check()

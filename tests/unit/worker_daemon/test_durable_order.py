"""What reaches the disk before what: a power cut between any two steps must find the truth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker_daemon.test_outbox_states import a_result
from worker.durable import write_json
from worker.outbox import Outbox


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Record each fsync and rename, which happen all the same."""
    taken: list[tuple[str, str]] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        taken.append(("fsync", Path(f"/proc/self/fd/{handle}").readlink().name))
        real_fsync(handle)

    def replace(self: Path, target: Any) -> Path:
        taken.append(("rename", Path(target).name))
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    return taken


pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="a handle's file is looked up in /proc (Linux)"
)


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_before_it_returns(
    tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    write_json(tmp_path / "lease.json", {"id": "x"})
    assert steps == [
        ("fsync", "lease.json.tmp"),
        ("rename", "lease.json"),
        ("fsync", tmp_path.name),
    ]


def test_the_artifacts_are_on_the_disk_before_the_file_that_calls_them_whole(
    tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    outbox = Outbox(tmp_path)
    outbox.open()
    entry = outbox.begin()
    entry.outputs_dir.mkdir()
    (entry.outputs_dir / "mask.dcm").write_bytes(b"mask")
    steps.clear()
    outbox.finish(entry, a_result())
    named = steps.index(("rename", "result.json"))
    assert steps.index(("fsync", "mask.dcm")) < named
    assert steps.index(("fsync", "outputs")) < named

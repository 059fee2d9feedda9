"""Each state in which a crash can leave a folder, and what the next start makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.made_results import no_lesion
from worker.core.errors import LeaseLost, ResultRefused, ServerUnavailable, Unauthorized
from worker.core.job import InputInstance, InputSeries, Job, Lease
from worker.delivery import CURABLE, Courier, Delivered, deliver
from worker.outbox import Entry, Failure, Finished, Outbox


def a_job(lease_id: str = "lease") -> Job:
    instance = InputInstance(id="i", size_bytes=1, sha256="0" * 64)
    return Job(
        request_id="r1",
        series=(InputSeries(series_id="s", instances=(instance,)),),
        main_series_id="s",
        model=None,
        attempt=1,
        lease=Lease(id=lease_id, expires_in_s=90, deadline_in_s=1800),
    )


def a_result() -> Finished:
    result = no_lesion(artifacts=("mask.dcm",))
    return Finished(request_id="r1", result=result, artifacts={"mask.dcm": "00"})


FAILURE = Failure(request_id="r1", code="c", message="m", is_retryable=True)


class FakeServer:
    """Answers every delivery with the same error, or takes it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.error is not None:
            raise self.error

    def upload_artifact(self, *_args: object, **_options: object) -> str:
        self._call("upload")
        return "00"

    def complete(self, *_args: object) -> str:
        self._call("complete")
        return "accepted"

    def fail(self, *_args: object, **_options: object) -> None:
        self._call("fail")


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    outbox = Outbox(tmp_path)
    outbox.open()
    return outbox


def finished_entry(outbox: Outbox) -> Entry:
    entry = outbox.begin()
    outbox.save_job(entry, a_job(entry.lease_id))
    entry.inputs_dir.mkdir()
    entry.outputs_dir.mkdir()
    (entry.outputs_dir / "mask.dcm").write_bytes(b"mask")
    outbox.finish(entry, a_result())
    return entry


def test_a_lease_is_on_disk_before_it_is_asked_for(outbox: Outbox) -> None:
    entry = outbox.begin()
    assert json.loads((entry.folder / "lease.json").read_text())["id"] == entry.lease_id
    assert (entry.job(), entry.end()) == (None, None)


def test_what_was_granted_is_read_back(outbox: Outbox) -> None:
    entry = outbox.begin()
    outbox.save_job(entry, a_job(entry.lease_id))
    assert outbox.entries()[0].job() == a_job(entry.lease_id)
    assert entry.end() is None


def test_a_result_is_read_back_and_its_images_are_gone(outbox: Outbox) -> None:
    entry = finished_entry(outbox)
    assert entry.end() == a_result()
    assert not entry.inputs_dir.exists()


def test_a_crash_while_a_result_is_written_leaves_no_result(outbox: Outbox) -> None:
    entry = outbox.begin()
    outbox.save_job(entry, a_job(entry.lease_id))
    (entry.folder / "result.json.tmp").write_text('{"request_id": "r1", "resu')
    assert entry.end() is None


def test_a_result_whose_artifact_is_missing_is_never_called_finished(outbox: Outbox) -> None:
    entry = outbox.begin()
    entry.outputs_dir.mkdir()
    with pytest.raises(FileNotFoundError):
        outbox.finish(entry, a_result())
    assert entry.end() is None


def test_a_deletion_that_a_crash_interrupted_is_finished_at_start(
    outbox: Outbox, tmp_path: Path
) -> None:
    left = tmp_path / "trash" / "some"
    left.mkdir()
    (left / "job.json").write_text("{}")
    Outbox(tmp_path).open()
    assert not left.exists()


@pytest.mark.parametrize("end", ["result", "failure"])
def test_what_the_site_took_is_deleted(outbox: Outbox, end: str) -> None:
    entry = finished_entry(outbox)
    body = a_result() if end == "result" else FAILURE
    outcome = deliver(outbox, FakeServer(), entry, body)
    assert outcome is (Delivered.ACCEPTED if end == "result" else Delivered.REPORTED)
    assert outbox.entries() == []


def test_a_result_that_is_not_wanted_any_more_is_deleted(outbox: Outbox) -> None:
    entry = finished_entry(outbox)
    outcome = deliver(outbox, FakeServer(LeaseLost("m")), entry, a_result())
    assert outcome is Delivered.NOT_WANTED
    assert outbox.entries() == []


def test_a_result_is_kept_while_the_site_is_away(outbox: Outbox) -> None:
    entry = finished_entry(outbox)
    outcome = deliver(outbox, FakeServer(ServerUnavailable("m")), entry, a_result())
    assert outcome is Delivered.KEPT
    assert entry.end() == a_result()


@pytest.mark.parametrize("code", ["digest_mismatch", "artifact_missing"])
def test_a_result_that_did_not_arrive_whole_is_kept(outbox: Outbox, code: str) -> None:
    entry = finished_entry(outbox)
    server = FakeServer(ResultRefused("m", code=code))
    assert deliver(outbox, server, entry, a_result()) is Delivered.KEPT
    assert (entry.end(), outbox.refused()) == (a_result(), [])


@pytest.mark.parametrize("error", [Unauthorized("m"), ResultRefused("m")])
def test_a_refused_result_is_kept_aside(outbox: Outbox, error: Exception) -> None:
    entry = finished_entry(outbox)
    assert deliver(outbox, FakeServer(error), entry, a_result()) is Delivered.REFUSED
    assert outbox.entries() == []
    assert [kept.end() for kept in outbox.refused()] == [a_result()]


def test_a_refused_result_ends_its_request_instead_of_being_made_again(outbox: Outbox) -> None:
    class Refusing(FakeServer):
        failure: dict[str, object] | None = None

        def complete(self, *_: object) -> str:
            raise ResultRefused("The mask is off its grid.", code="mask_off_grid")

        def fail(self, *_: object, **failure: object) -> None:
            self.failure = failure

    server = Refusing()
    assert deliver(outbox, server, finished_entry(outbox), a_result()) is Delivered.REFUSED
    assert server.failure == {
        "code": "mask_off_grid",
        "message": "The site refused the result: The mask is off its grid.",
        "is_retryable": False,
    }


def test_only_what_a_new_token_cures_is_tried_again(outbox: Outbox) -> None:
    for error in (Unauthorized("m"), ResultRefused("m")):
        deliver(outbox, FakeServer(error), finished_entry(outbox), a_result())
    assert len(outbox.take_back(CURABLE)) == 1
    assert (len(outbox.entries()), len(outbox.refused())) == (1, 1)


def test_a_kept_result_is_tried_again_after_its_pause_and_not_before(outbox: Outbox) -> None:
    clock = [0.0]
    server = FakeServer(ServerUnavailable("m"))
    courier = Courier(outbox, server, now=lambda: clock[0], pause_s=lambda failures: 10 * failures)
    courier.take(finished_entry(outbox))
    courier.deliver_due()
    clock[0] = 9.9
    courier.deliver_due()
    assert server.calls == ["upload"]
    clock[0] = 10
    courier.deliver_due()
    assert server.calls == ["upload"] * 2
    clock[0] = 29.9
    courier.deliver_due()
    assert server.calls == ["upload"] * 2
    server.error = None
    courier.hurry()
    courier.deliver_due()
    assert server.calls == ["upload"] * 3 + ["complete"]
    assert courier.waiting == 0


def test_a_folder_damaged_on_disk_does_not_block_the_others(outbox: Outbox) -> None:
    broken, good = finished_entry(outbox), finished_entry(outbox)
    (broken.folder / "result.json").write_text("[")
    server = FakeServer()
    courier = Courier(outbox, server)
    for entry in (broken, good):
        courier.take(entry)
    courier.deliver_due()
    assert courier.waiting == 0
    assert [entry.lease_id for entry in outbox.refused()] == [broken.lease_id]

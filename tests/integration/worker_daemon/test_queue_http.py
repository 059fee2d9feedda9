"""The HTTP adapter against a site that misbehaves."""

from __future__ import annotations

import dataclasses
import io
import tarfile
import time
import uuid
from pathlib import Path

import pytest

from tests.integration.worker_daemon.fake_site import FakeSite
from worker.adapters.inputs_batch import read_archive
from worker.adapters.inputs_http import HttpInputs
from worker.adapters.queue_http import HttpQueue, WorkerInfo
from worker.core import errors
from worker.core.job import Job
from worker.settings import Credentials, Settings


@pytest.fixture
def queue(worker_settings: Settings) -> HttpQueue:
    info = WorkerInfo(name="lab-pc", device="cpu", models=("fake",))
    return HttpQueue(worker_settings.server, info)


def claim(queue: HttpQueue) -> Job:
    answer = queue.claim(str(uuid.uuid4()), wait_s=1)
    assert answer.job is not None
    return answer.job


def fetch(worker_settings: Settings, job: Job, folder: Path) -> list[bytes]:
    seen: list[float] = []
    inputs = HttpInputs(worker_settings.server, sleep=lambda _: None)
    files = inputs.download(job, folder, on_progress=seen.append, is_cancelled=lambda: False)
    assert seen[-1] == 1.0
    return [path.read_bytes() for path in files["series-1"]]


def impatient(settings: Settings) -> Settings:
    """Let an answer take hardly any time."""
    server = dataclasses.replace(settings.server, read_timeout_s=0.6)
    return dataclasses.replace(settings, server=server)


def test_an_empty_queue_gives_no_job(queue: HttpQueue) -> None:
    assert queue.claim(str(uuid.uuid4()), wait_s=0).job is None


def test_the_same_key_replays_a_claim_whose_answer_was_lost(
    queue: HttpQueue, site: FakeSite
) -> None:
    site.file("r1", b"succeed")
    key = str(uuid.uuid4())
    site.fault_once("POST", "claim", "swallow")
    with pytest.raises(errors.ServerUnavailable):
        queue.claim(key, wait_s=1)
    answer = queue.claim(key, wait_s=1)
    assert answer.job is not None
    assert (answer.job.request_id, answer.job.attempt) == ("r1", 1)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, errors.Unauthorized),
        (403, errors.Unauthorized),
        (404, errors.ResultRefused),
        (409, errors.ResultRefused),
        (410, errors.Cancelled),
        (412, errors.LeaseLost),
        (413, errors.ResultRefused),
        (422, errors.ResultRefused),
        (426, errors.WorkerTooOld),
        (429, errors.ServerUnavailable),
        (500, errors.ServerUnavailable),
        (502, errors.ServerUnavailable),
        (503, errors.ServerUnavailable),
    ],
)
def test_each_status_becomes_the_error_that_decides(
    queue: HttpQueue, site: FakeSite, status: int, error: type[errors.WorkerError]
) -> None:
    site.fault_once("POST", "claim", "status", status)
    with pytest.raises(error) as caught:
        queue.claim(str(uuid.uuid4()), wait_s=0)
    assert type(caught.value) is error


def test_retry_after_is_carried(queue: HttpQueue, site: FakeSite) -> None:
    site.fault_once("POST", "claim", "status", 429, {"Retry-After": "7"})
    with pytest.raises(errors.ServerUnavailable) as caught:
        queue.claim(str(uuid.uuid4()), wait_s=0)
    assert caught.value.retry_after_s == 7


def test_a_proxys_page_with_status_200_is_no_answer(queue: HttpQueue, site: FakeSite) -> None:
    site.fault_once("POST", "claim", "html")
    with pytest.raises(errors.ServerUnavailable, match="not the segmentation site"):
        queue.claim(str(uuid.uuid4()), wait_s=0)


def test_another_web_server_is_no_site(queue: HttpQueue, site: FakeSite) -> None:
    site.fault_once("GET", "pending-requests", "status", 404)
    with pytest.raises(errors.ServerUnavailable, match=r"answers, but not .* check server\.url"):
        queue.check()


def test_a_users_token_is_no_workers(queue: HttpQueue, site: FakeSite) -> None:
    queue.check_is_worker()
    site.fault_once("POST", "release", "status", 403)
    with pytest.raises(errors.Unauthorized):
        queue.check_is_worker()


def test_a_redirect_is_named_and_not_followed(queue: HttpQueue, site: FakeSite) -> None:
    site.fault_once("POST", "claim", "redirect", "https://elsewhere.example/")
    with pytest.raises(errors.ServerUnavailable, match=r"elsewhere\.example"):
        queue.claim(str(uuid.uuid4()), wait_s=0)


def test_anothers_job_is_refused_without_doubting_the_credentials(
    queue: HttpQueue, site: FakeSite
) -> None:
    body = {"success": False, "code": "not_your_job", "error": "Another's."}
    site.fault_once("POST", "heartbeat", "status", 403, {}, body)
    with pytest.raises(errors.ResultRefused):
        queue.heartbeat("r1", "l1", stage="loading", progress=0.5)


def test_missing_credentials_name_the_variable_to_set(worker_settings: Settings) -> None:
    bare = dataclasses.replace(worker_settings.server, credentials=None)
    queue = HttpQueue(bare, WorkerInfo(name="w", device="", models=()))
    with pytest.raises(errors.Unauthorized, match="WORKER_TOKEN"):
        queue.check()


def test_refused_credentials_are_not_repeated_in_the_message(worker_settings: Settings) -> None:
    wrong = dataclasses.replace(worker_settings.server, credentials=Credentials(token="hunter2"))
    queue = HttpQueue(wrong, WorkerInfo(name="w", device="", models=()))
    with pytest.raises(errors.Unauthorized) as caught:
        queue.check()
    assert "hunter2" not in caught.value.message
    assert "hunter2" not in repr(wrong)


def test_a_netrc_file_does_not_replace_the_token(
    queue: HttpQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    queue.check()


def test_a_site_on_this_machine_is_reached_past_the_proxy(
    queue: HttpQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    queue.check()


def test_no_listener_is_one_sentence(worker_settings: Settings) -> None:
    away = dataclasses.replace(worker_settings.server, url="http://127.0.0.1:9")
    queue = HttpQueue(away, WorkerInfo(name="w", device="", models=()))
    with pytest.raises(errors.ServerUnavailable, match=r"No connection to http://127\.0\.0\.1:9"):
        queue.check()


def test_images_arrive_in_the_manifests_order(
    queue: HttpQueue, site: FakeSite, worker_settings: Settings, tmp_path: Path
) -> None:
    images = [bytes([n]) * (1000 + n) for n in range(20)]
    site.file("r1", *images)
    assert fetch(worker_settings, claim(queue), tmp_path / "in") == images


def calls_for_images(site: FakeSite) -> tuple[int, int]:
    """Count the calls for several images, and for one."""
    return tuple(  # type: ignore[return-value]
        sum("instances" in path for path in site.paths(method)) for method in ("POST", "GET")
    )


IMAGES = [bytes([n]) * (1000 + n) for n in range(20)]


def test_images_come_several_at_a_time_where_the_site_offers_it(
    queue: HttpQueue, site: FakeSite, worker_settings: Settings, tmp_path: Path
) -> None:
    site.instances_at_once = 8
    site.file("r1", *IMAGES)
    assert fetch(worker_settings, claim(queue), tmp_path / "in") == IMAGES
    assert calls_for_images(site) == (3, 0)
    assert not list((tmp_path / "in").rglob("*.part"))


def test_a_large_image_comes_alone_and_can_be_resumed(
    queue: HttpQueue, site: FakeSite, worker_settings: Settings, tmp_path: Path
) -> None:
    images = [b"small" * 100, bytes(range(256)) * 8000, b"small" * 200, b"small" * 300]
    site.instances_at_once = 64
    site.file("r1", *images)
    site.fault_once("GET", "instances/i1", "cut", 600_000)
    assert fetch(worker_settings, claim(queue), tmp_path / "in") == images
    posts, gets = calls_for_images(site)
    # The first has no company before the large one: it comes alone, too.
    assert (posts, gets) == (1, 3)


@pytest.mark.parametrize(
    "fault",
    [("status", 503), ("status", 404), ("html",), ("page", 502), ("swallow",), ("cut", 0)],
    ids=lambda fault: "-".join(map(str, fault)),
)
def test_what_a_batch_did_not_bring_comes_one_by_one(
    queue: HttpQueue,
    site: FakeSite,
    worker_settings: Settings,
    tmp_path: Path,
    fault: tuple[object, ...],
) -> None:
    site.instances_at_once = 5
    site.file("r1", *IMAGES)
    job = claim(queue)
    site.fault_always("POST", "instances", *fault)
    inputs = HttpInputs(worker_settings.server, downloads=1, sleep=lambda _: None)
    files = inputs.download(
        job, tmp_path / "in", on_progress=lambda _: None, is_cancelled=lambda: False
    )
    assert [path.read_bytes() for path in files["series-1"]] == IMAGES
    # A batch that brought nothing is not followed by another.
    assert calls_for_images(site) == (1, len(IMAGES))


def test_what_came_before_a_cut_is_kept(
    queue: HttpQueue, site: FakeSite, worker_settings: Settings, tmp_path: Path
) -> None:
    site.instances_at_once = 10
    images = [bytes([n]) * 100_000 for n in range(20)]
    site.file("r1", *images)
    job = claim(queue)
    site.fault_once("POST", "instances", "cut", 450_000)
    assert fetch(worker_settings, job, tmp_path / "in") == images
    posts, gets = calls_for_images(site)
    assert posts == 2
    assert 6 <= gets <= 7, "four whole images came, the fifth may have been on its way"


def test_a_batch_that_trickles_ends(
    queue: HttpQueue, site: FakeSite, worker_settings: Settings, tmp_path: Path
) -> None:
    site.instances_at_once = 64
    site.file("r1", b"one", b"two")
    job = claim(queue)
    site.fault_once("POST", "instances", "trickle", 500)
    started = time.monotonic()
    assert fetch(impatient(worker_settings), job, tmp_path / "in") == [b"one", b"two"]
    # The site would go on for 50 s.
    assert time.monotonic() - started < 30


def test_a_site_that_gives_fewer_than_it_was_asked_for_is_asked_for_the_rest(
    queue: HttpQueue, site: FakeSite, worker_settings: Settings, tmp_path: Path
) -> None:
    site.instances_at_once = 20
    site.file("r1", *IMAGES)
    job = claim(queue)
    site.instances_at_once = 17
    assert fetch(worker_settings, job, tmp_path / "in") == IMAGES
    assert calls_for_images(site) == (1, 3)


def test_an_image_of_a_batch_that_changed_is_refused_as_one_alone_is(
    queue: HttpQueue, site: FakeSite, worker_settings: Settings, tmp_path: Path
) -> None:
    site.instances_at_once = 64
    request = site.file("r1", *IMAGES)
    job = claim(queue)
    request.images[7] = b"x" * len(IMAGES[7])
    with pytest.raises(errors.InputUnavailable, match="i7") as caught:
        fetch(worker_settings, job, tmp_path / "in")
    assert caught.value.code == "digest_mismatch"
    assert calls_for_images(site)[0] == 1


def header(name: str, size: int = 3, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size, kind, "/etc/passwd"
    return member.tobuf(tarfile.GNU_FORMAT)


def pax_size(size: int) -> bytes:
    """Make a pax header that says another size of the file that follows."""
    member = tarfile.TarInfo("i0")
    member.pax_headers = {"size": str(size)}
    return member.tobuf(tarfile.PAX_FORMAT)


GOOD = header("i0") + b"abc".ljust(512, b"\0")


@pytest.mark.parametrize(
    "bad",
    [
        header("../../i1"),
        header("i1", kind=tarfile.SYMTYPE),
        header("i1", kind=tarfile.GNUTYPE_SPARSE),
        header("i1", kind=tarfile.GNUTYPE_LONGNAME),
        header("i1", size=10**15),
        header("i1", size=2**63),
        pax_size(-512),
        pax_size(10**30),
        GOOD,
        b"<html>" * 200,
        b"",
    ],
    ids=[
        "path",
        "link",
        "sparse",
        "long",
        "1 PB",
        "2^63",
        "pax",
        "pax-1e30",
        "twice",
        "html",
        "end",
    ],
)
@pytest.mark.parametrize("chunk", [1, 100, 100_000])
def test_an_archive_that_is_none_ends_where_it_stops_being_one(bad: bytes, chunk: int) -> None:
    body = GOOD + bad
    chunks = (body[start : start + chunk] for start in range(0, len(body), chunk))
    found = []
    with pytest.raises(errors.ServerUnavailable):
        found.extend(read_archive(chunks, {"i0": 3, "i1": 3}))
    assert found == [("i0", b"abc")]


def test_an_archive_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, size in {"i0": 0, "i1": 512, "i2": 513}.items():
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(b"x" * size))
    chunks = iter([path.read_bytes()[:700], path.read_bytes()[700:]])
    found = dict(read_archive(chunks, {"i2": 513, "i1": 512, "i0": 0, "i3": 1}))
    assert {name: len(data) for name, data in found.items()} == {"i0": 0, "i1": 512, "i2": 513}
    assert next(chunks, None) is None


def test_a_cut_download_goes_on_where_it_stopped(
    queue: HttpQueue, site: FakeSite, worker_settings: Settings, tmp_path: Path
) -> None:
    image = bytes(range(256)) * 4000
    site.file("r1", image)
    site.fault_once("GET", "instances", "cut", 600_000)
    assert fetch(worker_settings, claim(queue), tmp_path / "in") == [image]
    ranges = [headers.get("Range") for method, path, headers in site.calls if "inst" in path]
    assert ranges[0] is None
    assert ranges[1] is not None
    assert ranges[1].startswith("bytes=")


def test_a_download_survives_an_overloaded_site(
    queue: HttpQueue, site: FakeSite, worker_settings: Settings, tmp_path: Path
) -> None:
    site.file("r1", b"image")
    job = claim(queue)
    for _ in range(3):
        site.fault_once("GET", "instances", "status", 503)
    assert fetch(worker_settings, job, tmp_path / "in") == [b"image"]


def test_an_image_that_trickles_is_cut_and_fetched_again(
    queue: HttpQueue, site: FakeSite, worker_settings: Settings, tmp_path: Path
) -> None:
    site.file("r1", b"image" * 100)
    job = claim(queue)
    site.fault_once("GET", "instances", "trickle", 500)
    started = time.monotonic()
    assert fetch(impatient(worker_settings), job, tmp_path / "in") == [b"image" * 100]
    # The site would go on for 50 s.
    assert time.monotonic() - started < 30


def test_an_image_that_changed_is_fetched_again_once_and_then_refused(
    queue: HttpQueue, site: FakeSite, worker_settings: Settings, tmp_path: Path
) -> None:
    request = site.file("r1", b"image")
    job = claim(queue)
    request.images[0] = b"egami"
    with pytest.raises(errors.InputUnavailable) as caught:
        fetch(worker_settings, job, tmp_path / "in")
    assert caught.value.code == "digest_mismatch"
    assert len([path for path in site.paths("GET") if "instances" in path]) == 2


def test_an_image_larger_than_promised_is_refused(
    queue: HttpQueue, site: FakeSite, worker_settings: Settings, tmp_path: Path
) -> None:
    request = site.file("r1", b"image")
    job = claim(queue)
    request.images[0] = b"image" * 1000
    with pytest.raises(errors.InputUnavailable):
        fetch(worker_settings, job, tmp_path / "in")


def test_a_cancelled_download_stops(
    queue: HttpQueue, site: FakeSite, worker_settings: Settings, tmp_path: Path
) -> None:
    site.file("r1", *[b"image" * 100] * 50)
    job = claim(queue)
    inputs = HttpInputs(worker_settings.server)
    with pytest.raises(errors.Cancelled):
        inputs.download(job, tmp_path / "in", on_progress=lambda _: None, is_cancelled=lambda: True)


def test_an_image_that_is_gone_names_itself(
    queue: HttpQueue, site: FakeSite, worker_settings: Settings, tmp_path: Path
) -> None:
    site.file("r1", b"image")
    job = claim(queue)
    site.fault_always("GET", "instances", "status", 404)
    with pytest.raises(errors.InputUnavailable, match="i0"):
        fetch(worker_settings, job, tmp_path / "in")


def test_an_upload_carries_its_digest_and_reports_progress(
    queue: HttpQueue, site: FakeSite, tmp_path: Path
) -> None:
    request = site.file("r1", b"image")
    job = claim(queue)
    path = tmp_path / "mask.dcm"
    path.write_bytes(b"mask" * 200_000)
    seen: list[float] = []
    digest = queue.upload_artifact("r1", job.lease.id, path, on_progress=seen.append)
    assert request.artifacts["mask.dcm"] == path.read_bytes()
    assert len(digest) == 64
    assert seen[-1] == 1.0

"""The HTTP adapters and the whole worker against our own site, as a real server process."""

from __future__ import annotations

import dataclasses
import io
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest

from tests.integration.worker_daemon.conftest import CONFIG, RunningWorker, wait_for
from tests.support.live_site import LiveSite, start_live, stop_live
from tests.support.made_results import no_lesion
from worker.adapters.inputs_http import HttpInputs
from worker.adapters.queue_http import HttpQueue, WorkerInfo
from worker.core import errors
from worker.core.job import Job
from worker.settings import Credentials, Settings, load_settings

CHILD = [sys.executable, str(Path(__file__).with_name("threshold_child.py"))]
RESULT = no_lesion(artifacts=("mask.dcm",), total_slices=3)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    site = start_live(tmp_path_factory.mktemp("live"))
    yield site
    stop_live(site)


@pytest.fixture
def page(live: LiveSite) -> Iterator[httpx.Client]:
    with live.client() as client:
        yield client


@pytest.fixture
def live_settings(live: LiveSite, tmp_path: Path) -> Settings:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(url=live.url))
    return load_settings(config, {"WORKER_TOKEN": live.secrets["lab"]})


@pytest.fixture
def queue(live_settings: Settings) -> HttpQueue:
    info = WorkerInfo(name="lab-pc", device="cpu", models=("fake",))
    return HttpQueue(live_settings.server, info)


@pytest.fixture
def file_request(live: LiveSite, page: httpx.Client) -> Iterator[Callable[..., str]]:
    filed: list[str] = []

    def file() -> str:
        answer = page.post(
            f"/series/{live.series['t1']}/segment/",
            json={"sequence_series_ids": [live.series["t1"]], "model": "fake", "force": True},
            headers={"Prefer": "respond-async"},
        )
        assert answer.status_code == 202, answer.text
        filed.append(answer.json()["request_id"])
        return filed[-1]

    yield file
    for request_id in filed:
        page.post(f"/requests/{request_id}/cancel/")


def claim(queue: HttpQueue, key: str = "") -> Job:
    answer = queue.claim(key or str(uuid.uuid4()), wait_s=2)
    assert answer.job is not None
    return answer.job


def status(page: httpx.Client, request_id: str) -> dict[str, object]:
    return dict(page.get(f"/status/{request_id}/").json())


def test_the_token_is_known_and_a_wrong_one_is_not(
    queue: HttpQueue, live_settings: Settings
) -> None:
    queue.check()
    wrong = dataclasses.replace(live_settings.server, credentials=Credentials(token="wrong"))
    with pytest.raises(errors.Unauthorized):
        HttpQueue(wrong, queue.worker).check()


def test_name_and_token_are_taken_as_well(queue: HttpQueue, live_settings: Settings) -> None:
    credentials = live_settings.server.credentials
    assert credentials is not None
    basic = Credentials(name="lab", token=credentials.token)
    HttpQueue(dataclasses.replace(live_settings.server, credentials=basic), queue.worker).check()


def test_an_empty_queue_is_held_for_the_asked_time(queue: HttpQueue) -> None:
    started = time.monotonic()
    assert queue.claim(str(uuid.uuid4()), wait_s=1).job is None
    assert 0.8 < time.monotonic() - started < 8


def test_the_same_key_gives_the_same_job(
    queue: HttpQueue, file_request: Callable[..., str]
) -> None:
    request_id, key = file_request(), str(uuid.uuid4())
    first = claim(queue, key)
    assert (first.request_id, first.lease.id) == (request_id, key)
    again = claim(queue, key)
    assert again.series == first.series
    assert again.attempt == 1


def test_images_arrive_whole_and_are_resumed(
    queue: HttpQueue,
    file_request: Callable[..., str],
    live_settings: Settings,
    tmp_path: Path,
) -> None:
    file_request()
    job = claim(queue)
    files = HttpInputs(live_settings.server).download(
        job, tmp_path / "in", on_progress=lambda _: None, is_cancelled=lambda: False
    )
    (paths,) = files.values()
    heads = [pydicom.dcmread(path) for path in paths]
    assert len({head.SOPInstanceUID for head in heads}) == 3
    assert all(str(head.PatientName) != "Phantom^Api" for head in heads)


def test_a_cancelled_request_answers_the_heartbeat_with_cancelled(
    queue: HttpQueue, file_request: Callable[..., str], page: httpx.Client
) -> None:
    request_id = file_request()
    job = claim(queue)
    assert queue.heartbeat(request_id, job.lease.id, stage="inferring", progress=0.5) == 90
    shown = status(page, request_id)
    assert (shown["stage"], shown["progress"]) == ("inferring", 0.5)
    page.post(f"/requests/{request_id}/cancel/")
    with pytest.raises(errors.Cancelled):
        queue.heartbeat(request_id, job.lease.id, stage="inferring", progress=0.6)


def test_a_released_request_waits_again_with_its_attempts_unharmed(
    queue: HttpQueue, file_request: Callable[..., str], page: httpx.Client
) -> None:
    request_id = file_request()
    job = claim(queue)
    queue.release(request_id, job.lease.id)
    assert status(page, request_id)["status"] == "pending"
    with pytest.raises(errors.LeaseLost):
        queue.heartbeat(request_id, job.lease.id, stage="loading", progress=0)
    assert claim(queue).attempt == 1


def test_a_permanent_failure_ends_the_request_with_its_reason(
    queue: HttpQueue, file_request: Callable[..., str], page: httpx.Client
) -> None:
    request_id = file_request()
    job = claim(queue)
    queue.fail(
        request_id, job.lease.id, code="missing_slices", message="A gap.", is_retryable=False
    )
    shown = status(page, request_id)
    assert shown["status"] == "failed"
    assert "missing_slices" in str(shown["failure"])


def test_a_failure_is_told_in_the_language_of_whoever_asks(
    queue: HttpQueue, file_request: Callable[..., str], page: httpx.Client
) -> None:
    request_id = file_request()
    job = claim(queue)
    sentence = "instance number 7 (SOP Instance UID 1.2.3) is cut short; fetch it again."
    queue.fail(request_id, job.lease.id, code="truncated", message=sentence, is_retryable=False)
    korean = "인스턴스 번호 7(SOP Instance UID 1.2.3): 데이터가 잘려 있습니다. 다시 가져오십시오."
    for language, expected in (("en", sentence), ("ko-KR,en;q=0.5", korean), ("fr", sentence)):
        headers = {"Accept-Language": language}
        shown = page.get(f"/status/{request_id}/", headers=headers).json()["failure"]
        assert shown == {"code": "truncated", "message": expected}


def test_an_artifact_that_is_no_mask_is_refused(
    queue: HttpQueue, file_request: Callable[..., str], tmp_path: Path
) -> None:
    request_id = file_request()
    job = claim(queue)
    path = tmp_path / "mask.dcm"
    path.write_bytes(b"not a mask")
    digest = queue.upload_artifact(request_id, job.lease.id, path)
    assert queue.upload_artifact(request_id, job.lease.id, path) == digest
    with pytest.raises(errors.ResultRefused):
        queue.complete(request_id, job.lease.id, RESULT, {"mask.dcm": digest})


def test_a_result_without_its_artifact_is_refused(
    queue: HttpQueue, file_request: Callable[..., str]
) -> None:
    request_id = file_request()
    job = claim(queue)
    with pytest.raises(errors.ResultRefused):
        queue.complete(request_id, job.lease.id, RESULT, {"mask.dcm": "0" * 64})


def test_a_lease_that_was_never_issued_is_lost(
    queue: HttpQueue, file_request: Callable[..., str]
) -> None:
    request_id = file_request()
    claim(queue)
    with pytest.raises(errors.LeaseLost):
        queue.heartbeat(request_id, str(uuid.uuid4()), stage="loading", progress=0)


def test_from_a_click_to_a_mask(
    live_settings: Settings,
    file_request: Callable[..., str],
    page: httpx.Client,
    live: LiveSite,
) -> None:
    request_id = file_request()
    worker = RunningWorker(live_settings, child=CHILD)
    try:
        wait_for(lambda: status(page, request_id)["status"] in ("completed", "failed"), 60)
    finally:
        worker.end()
    shown = status(page, request_id)
    assert shown["status"] == "completed", shown
    mask = pydicom.dcmread(io.BytesIO(page.get(f"/requests/{request_id}/mask.dcm").content))
    assert mask.Modality == "SEG"
    assert str(mask.PatientName) == "Phantom^Api", "re-identified on its way into the PACS"
    # The phantom's grey values are 0..191, plus the slice's index: 92, 93 and 94 reach 100.
    frames = mask.pixel_array
    assert int(np.count_nonzero(frames)) == 92 + 93 + 94
    for name in ("mask.nii.gz", "preview.png", "report.json"):
        assert page.get(f"/requests/{request_id}/{name}").status_code == 200
    assert worker.error is None
    left = list((live_settings.worker.work_dir / "jobs").glob("*/job.json"))
    assert left == []
    warnings = {
        language: page.get(f"/status/{request_id}/", headers={"Accept-Language": language}).json()[
            "result"
        ]["warnings"]
        for language in ("en", "ko")
    }
    assert warnings["en"] == ["Intended use of this model: tests"]
    assert warnings["ko"] == ["이 모델의 용도: tests"]


def test_the_site_tells_its_version_the_tokens_lane_and_its_time(queue: HttpQueue) -> None:
    facts = queue.facts()
    assert (facts.lane, facts.least_worker_version) == ("lab", "")
    assert facts.version
    assert facts.clock_ahead_s is not None
    assert abs(facts.clock_ahead_s) < 60

"""Images straight from a real Orthanc, whole or not at all."""

from __future__ import annotations

import dataclasses
import io
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pydicom
import pytest
import requests

from tests.integration.inputs.test_cache_at_a_live_site import CHILD
from tests.integration.worker_daemon.conftest import RunningWorker, wait_for
from tests.support.live_site import LiveSite, free_port, start_live, stop_live
from tests.support.orthanc_server import PASSWORD, USER, OrthancServer
from tests.support.small_series import SLICES, mr_series
from worker.adapters.inputs_orthanc import OrthancInputs
from worker.core.errors import (
    EXIT_CREDENTIALS_REFUSED,
    EXIT_SERVER_UNAVAILABLE,
    Cancelled,
    InputUnavailable,
    PacsCredentialsRefused,
    PacsUnavailable,
)
from worker.core.job import InputInstance, InputSeries, Job, Lease
from worker.doctor import Verdict, check_pacs
from worker.settings import OrthancSettings, Settings, load_settings

pytestmark = pytest.mark.orthanc

CONFIG = """
server: {{url: "{url}", wait_s: 1, poll_interval_s: 0.1, start_timeout_s: 30}}
worker: {{name: lab-pc, work_dir: work, drain_s: 1, least_free_mb: 1}}
inference: {{device: cpu, stall_s: 60}}
default_model: fake
models: {{fake: {{path: fake_model}}}}
inputs: {{from: pacs}}
"""


class Stored:
    """A series in an Orthanc, and a job that names it."""

    def __init__(self, server: OrthancServer) -> None:
        self.files = mr_series()
        self.ids = [
            server.call("POST", "/instances", data=data).json()["ID"] for data in self.files
        ]
        (self.series_id,) = server.ids("series")

    def job(self) -> Job:
        # Sizes and digests as the site names them are those of other, pseudonymised bytes.
        instances = [InputInstance(id=one, size_bytes=900, sha256="0" * 64) for one in self.ids]
        series = InputSeries(series_id=self.series_id, instances=tuple(instances))
        return Job(
            request_id="r",
            series=(series,),
            main_series_id=self.series_id,
            model=None,
            attempt=1,
            lease=Lease(id="l", expires_in_s=90, deadline_in_s=1800),
            may_fetch_directly=True,
        )


@pytest.fixture
def stored(orthanc: OrthancServer) -> Stored:
    return Stored(orthanc)


def settings_for(
    folder: Path, url: str, site: str = "http://127.0.0.1:1", token: str = "t", **environ: str
) -> Settings:
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(url=site))
    given = {
        "WORKER_TOKEN": token,
        "ORTHANC_URL": url,
        "ORTHANC_USER": USER,
        "ORTHANC_PASSWORD": PASSWORD,
    }
    return load_settings(config, {**given, **environ})


def inputs_of(folder: Path, url: str, **changes: str) -> OrthancInputs:
    settings = settings_for(folder, url)
    orthanc: OrthancSettings = dataclasses.replace(settings.orthanc, **changes)
    return OrthancInputs(orthanc, settings.server, downloads=3, sleep=lambda _: None)


def download(inputs: OrthancInputs, job: Job, folder: Path) -> list[bytes]:
    seen: list[float] = []
    files = inputs.download(job, folder / "in", on_progress=seen.append, is_cancelled=lambda: False)
    assert seen[-1] == 1.0
    return [path.read_bytes() for paths in files.values() for path in paths]


def test_every_instance_arrives_as_the_pacs_has_it(
    orthanc: OrthancServer, stored: Stored, tmp_path: Path
) -> None:
    got = download(inputs_of(tmp_path, orthanc.url), stored.job(), tmp_path)
    want = [orthanc.call("GET", f"/instances/{one}/file").content for one in stored.ids]
    assert got == want
    assert list((tmp_path / "in").rglob("*.part")) == []


def test_a_wrong_password_ends_the_program_and_is_not_repeated(
    orthanc: OrthancServer, stored: Stored, tmp_path: Path
) -> None:
    inputs = inputs_of(tmp_path, orthanc.url, password="geheim")
    with pytest.raises(PacsCredentialsRefused) as caught:
        download(inputs, stored.job(), tmp_path)
    assert caught.value.exit_code == EXIT_CREDENTIALS_REFUSED
    assert "ORTHANC_PASSWORD" in caught.value.message
    assert "geheim" not in caught.value.message


def test_a_pacs_that_is_away_is_worth_another_try(stored: Stored, tmp_path: Path) -> None:
    inputs = inputs_of(tmp_path, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(PacsUnavailable) as caught:
        download(inputs, stored.job(), tmp_path)
    assert caught.value.is_retryable
    assert "orthanc.url" in caught.value.message


def test_a_series_that_lost_or_gained_an_instance_is_refused(
    orthanc: OrthancServer, stored: Stored, tmp_path: Path
) -> None:
    inputs = inputs_of(tmp_path, orthanc.url)
    series = stored.job().series[0]
    fewer = dataclasses.replace(series, instances=series.instances[:-1])
    with pytest.raises(InputUnavailable) as caught:
        download(inputs, dataclasses.replace(stored.job(), series=(fewer,)), tmp_path)
    assert caught.value.code == "series_changed"

    orthanc.call("DELETE", f"/instances/{stored.ids[0]}")
    with pytest.raises(InputUnavailable) as caught:
        download(inputs, stored.job(), tmp_path)
    assert caught.value.code == "series_changed"
    assert caught.value.is_retryable

    orthanc.empty()
    with pytest.raises(InputUnavailable) as caught:
        download(inputs, stored.job(), tmp_path)
    assert caught.value.code == "instance_missing"


def test_a_cancelled_job_stops(orthanc: OrthancServer, stored: Stored, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        inputs_of(tmp_path, orthanc.url).download(
            stored.job(), tmp_path / "in", on_progress=lambda _: None, is_cancelled=lambda: True
        )


def test_the_version_is_told_and_another_server_is_no_orthanc(
    orthanc: OrthancServer, tmp_path: Path
) -> None:
    assert inputs_of(tmp_path, orthanc.url).version().startswith("1.")
    with pytest.raises(InputUnavailable):
        inputs_of(tmp_path, f"{orthanc.url}/app").version()


def test_doctor_says_whether_the_pacs_can_be_used(orthanc: OrthancServer, tmp_path: Path) -> None:
    good = check_pacs(settings_for(tmp_path, orthanc.url))
    assert (good.verdict, good.exit_code) == (Verdict.OK, 0)
    assert "the patient's name" in good.found
    refused = check_pacs(settings_for(tmp_path, orthanc.url, ORTHANC_PASSWORD="wrong"))
    assert (refused.verdict, refused.exit_code) == (Verdict.FAIL, EXIT_CREDENTIALS_REFUSED)
    missing = check_pacs(settings_for(tmp_path, orthanc.url, ORTHANC_PASSWORD=""))
    assert "ORTHANC_PASSWORD: expected the password of 'site'" in missing.found
    away = check_pacs(settings_for(tmp_path, f"http://127.0.0.1:{free_port()}"))
    assert (away.verdict, away.exit_code) == (Verdict.FAIL, EXIT_SERVER_UNAVAILABLE)


class Relay:
    """Passes calls on to Orthanc, and spoils the answers that a test asks it to."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.spoil: Callable[[str, bytes], bytes | None] = lambda path, body: body
        self.paths: list[str] = []


@pytest.fixture
def relay(orthanc: OrthancServer) -> Iterator[tuple[Relay, str]]:
    relay = Relay(orthanc.url)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            relay.paths.append(self.path)
            answer = requests.get(relay.target + self.path, auth=(USER, PASSWORD), timeout=60)
            body = relay.spoil(self.path, answer.content)
            self.send_response(answer.status_code if body is not None else 503)
            self.send_header(
                "Content-Length", str(len(answer.content if body is not None else b""))
            )
            self.end_headers()
            self.wfile.write(body or b"")
            if body is not None and len(body) < len(answer.content):
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield relay, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def _flipped(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


@pytest.mark.parametrize(
    "spoil", [lambda body: body[:100], _flipped, lambda _: None], ids=["cut", "changed", "busy"]
)
def test_an_answer_that_is_spoilt_once_is_fetched_anew(
    stored: Stored,
    relay: tuple[Relay, str],
    tmp_path: Path,
    spoil: Callable[[bytes], bytes | None],
) -> None:
    between, url = relay
    path = f"/instances/{stored.ids[1]}/file"
    between.spoil = lambda asked, body: (
        spoil(body) if asked == path and between.paths.count(path) == 1 else body
    )
    got = download(inputs_of(tmp_path, url), stored.job(), tmp_path)
    assert between.paths.count(path) == 2
    sops = {str(pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID) for data in got}
    assert len(sops) == SLICES


def test_an_answer_that_stays_spoilt_is_never_used(
    stored: Stored, relay: tuple[Relay, str], tmp_path: Path
) -> None:
    between, url = relay
    between.spoil = lambda asked, body: _flipped(body) if asked.endswith("/file") else body
    with pytest.raises(PacsUnavailable, match="did not arrive as the PACS has it"):
        download(inputs_of(tmp_path, url), stored.job(), tmp_path)
    assert list((tmp_path / "in").rglob("*.dcm")) == []


def test_without_kept_digests_the_size_must_do(
    orthanc: OrthancServer, stored: Stored, relay: tuple[Relay, str], tmp_path: Path
) -> None:
    """`StoreMD5: false` in Orthanc's settings leaves it without digests."""
    between, url = relay
    between.spoil = lambda asked, body: b" " * len(body) if asked.endswith("/md5") else body
    assert len(download(inputs_of(tmp_path, url), stored.job(), tmp_path)) == SLICES
    assert sum(path.endswith("/size") for path in between.paths) == SLICES


@pytest.fixture
def site_of_the_pacs(orthanc: OrthancServer, tmp_path: Path) -> Iterator[Callable[..., LiveSite]]:
    started: list[LiveSite] = []

    def start(**more: str) -> LiveSite:
        started.append(start_live(tmp_path / "live", **orthanc.settings("orthanc"), **more))
        return started[-1]

    yield start
    for site in started:
        stop_live(site)


def file_and_wait(site: LiveSite, *, until: tuple[str, ...] = ("completed", "failed")) -> dict:
    with site.client() as page:
        series_id = site.series["t1"]
        answer = page.post(
            f"/series/{series_id}/segment/",
            json={"sequence_series_ids": [series_id], "model": "fake"},
            headers={"Prefer": "respond-async"},
        )
        path = f"/status/{answer.json()['request_id']}/"
        wait_for(lambda: page.get(path).json()["status"] in until, 60)
        return dict(page.get(path).json())


def test_from_a_click_to_a_mask_past_the_site(
    orthanc: OrthancServer, site_of_the_pacs: Callable[..., LiveSite], tmp_path: Path
) -> None:
    site = site_of_the_pacs(SEGMENTATION_DIRECT_FETCH="true")
    settings = settings_for(tmp_path, orthanc.url, site.url, site.secrets["lab"])
    worker = RunningWorker(settings, child=CHILD)
    try:
        shown = file_and_wait(site)
    finally:
        worker.end(times=2)
    assert shown["status"] == "completed", shown
    with site.client() as page:
        data = page.get(f"/requests/{shown['request_id']}/mask.dcm").content
    mask = pydicom.dcmread(io.BytesIO(data))
    assert str(mask.PatientName) == "Phantom^Api"
    assert not (tmp_path / "work" / "cache").exists(), "names are never cached"


def test_a_site_that_does_not_allow_it_serves_the_images_itself(
    orthanc: OrthancServer, site_of_the_pacs: Callable[..., LiveSite], tmp_path: Path
) -> None:
    site = site_of_the_pacs()
    settings = settings_for(tmp_path, orthanc.url, site.url, site.secrets["lab"])
    worker = RunningWorker(settings, child=CHILD)
    try:
        shown = file_and_wait(site)
    finally:
        worker.end(times=2)
    assert shown["status"] == "completed", shown
    cached = [path.read_bytes() for path in (tmp_path / "work" / "cache").glob("??/*")]
    assert len(cached) == SLICES
    assert not any(b"Phantom^Api" in data for data in cached)


def test_refused_credentials_give_the_case_back_and_end_the_worker(
    orthanc: OrthancServer, site_of_the_pacs: Callable[..., LiveSite], tmp_path: Path
) -> None:
    site = site_of_the_pacs(SEGMENTATION_DIRECT_FETCH="true")
    settings = settings_for(
        tmp_path, orthanc.url, site.url, site.secrets["lab"], ORTHANC_PASSWORD="wrong"
    )
    worker = RunningWorker(settings, child=CHILD)
    with site.client() as page:
        series_id = site.series["t1"]
        answer = page.post(
            f"/series/{series_id}/segment/",
            json={"sequence_series_ids": [series_id], "model": "fake"},
            headers={"Prefer": "respond-async"},
        )
        worker.join()
        shown = page.get(f"/status/{answer.json()['request_id']}/").json()
    assert isinstance(worker.error, PacsCredentialsRefused)
    assert (shown["status"], shown["attempts"]) == ("pending", 0)

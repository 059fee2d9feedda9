"""A remote archive that is away, slow, lying or changing: a plain error each time, never a mix."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_queue_app.pacs import dicomweb, get_pacs
from django_queue_app.pacs.connection import Connection
from django_queue_app.pacs.dicomweb import DicomWebPacs
from django_queue_app.pacs.orthanc import OrthancPacs
from django_queue_app.pacs.port import (
    InstanceNotFound,
    Pacs,
    PacsBadAnswer,
    PacsCredentialsRefused,
    PacsTooSlow,
    PacsUnavailable,
    SeriesNotFound,
    StoreRefused,
)
from tests.support import small_series
from tests.support.orthanc_server import PASSWORD, USER, OrthancServer, is_installed, start
from tests.support.seg_files import encode, read

pytestmark = [pytest.mark.orthanc, pytest.mark.django_db]

ADAPTERS = {"orthanc": OrthancPacs, "dicomweb": DicomWebPacs}


@pytest.fixture(params=sorted(ADAPTERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def connect(kind: str, server: OrthancServer, **changes: Any) -> Pacs:
    url = server.dicomweb_url if kind == "dicomweb" else server.url
    given = {"url": url, "user": USER, "password": PASSWORD, **changes}
    return ADAPTERS[kind](Connection(**given))  # type: ignore[no-any-return, abstract]


@pytest.fixture
def pacs(kind: str, orthanc: OrthancServer) -> Pacs:
    return connect(kind, orthanc)


def store(pacs: Pacs, files: list[bytes]) -> str:
    return [pacs.store_instance(data).series_id for data in files][-1]


def every_call(pacs: Pacs, series_id: str, instance_id: str) -> dict[str, Any]:
    return {
        "list": pacs.list_series,
        "describe": lambda: pacs.describe_series(series_id),
        "read": lambda: pacs.read_instance(instance_id),
        "store": lambda: pacs.store_instance(small_series.mr_series()[0]),
        "check": pacs.check,
    }


def known_ids(pacs: Pacs) -> tuple[str, str]:
    series_id = store(pacs, small_series.mr_series())
    return series_id, pacs.describe_series(series_id).instances[0].id


@pytest.mark.parametrize("credentials", [{"password": "wrong"}, {"user": "", "password": ""}])
def test_wrong_credentials_are_said(
    kind: str, pacs: Pacs, orthanc: OrthancServer, credentials: dict[str, str]
) -> None:
    refused = connect(kind, orthanc, **credentials)
    for call in every_call(refused, *known_ids(pacs)).values():
        with pytest.raises(PacsCredentialsRefused) as caught:
            call()
        assert "SEGMENTATION_PACS_PASSWORD" in caught.value.message
        assert PASSWORD not in str(caught.value)


def test_an_archive_that_is_away_is_said_and_works_again_once_it_is_back(
    kind: str, tmp_path: Path
) -> None:
    if not is_installed():
        pytest.skip("needs Orthanc and its DICOMweb plugin (Debian: orthanc, orthanc-dicomweb)")
    server = start(tmp_path / "archive")
    pacs = connect(kind, server)
    series_id, instance_id = known_ids(pacs)
    server.stop()
    away = connect(kind, server)
    try:
        for call in every_call(away, series_id, instance_id).values():
            with pytest.raises(PacsUnavailable) as caught:
                call()
            assert (caught.value.code, caught.value.http_status) == ("pacs_unavailable", 503)
        server = start(tmp_path / "archive", port=int(server.url.rpartition(":")[2]))
        for call in every_call(away, series_id, instance_id).values():
            call()
    finally:
        server.stop()


def test_a_series_that_was_deleted_is_gone(kind: str, pacs: Pacs, orthanc: OrthancServer) -> None:
    series_id = store(pacs, small_series.mr_series())
    series = pacs.describe_series(series_id)
    orthanc.call("DELETE", f"/series/{series_id}")
    with pytest.raises(InstanceNotFound):
        list(pacs.read_series(series))
    with pytest.raises(InstanceNotFound):
        pacs.read_instance(series.instances[0].id)
    with pytest.raises(SeriesNotFound):
        connect(kind, orthanc).describe_series(series_id)
    assert list(pacs.list_series()) == []


def test_an_instance_deleted_while_its_series_is_read_is_missed(
    pacs: Pacs, orthanc: OrthancServer
) -> None:
    series = pacs.describe_series(store(pacs, small_series.mr_series()))
    orthanc.call("DELETE", f"/instances/{series.instances[1].id}")
    with pytest.raises(InstanceNotFound):
        list(pacs.read_series(series))


def test_orthanc_tells_replaced_content_by_its_version(orthanc: OrthancServer) -> None:
    pacs = connect("orthanc", orthanc)
    files = small_series.mr_series()
    series_id = store(pacs, files)
    before = {one.id: one.version for one in pacs.describe_series(series_id).instances}
    replaced = replace(orthanc, pacs, files[0])
    after = {one.id: one.version for one in pacs.describe_series(series_id).instances}
    assert set(before) == set(after)
    assert [one for one in before if before[one] != after[one]] == [replaced]


def replace(orthanc: OrthancServer, pacs: Pacs, data: bytes) -> str:
    """Put other pixels under the same UIDs, as a corrected export would."""
    changed = read(data)
    changed.PixelData = bytes(len(changed.PixelData))
    instance_id = pacs.store_instance(data).instance_id
    orthanc.call("DELETE", f"/instances/{instance_id}")
    answer = orthanc.call("POST", "/instances", data=encode(changed)).json()
    assert answer["ID"] == instance_id
    return instance_id


def test_many_threads_store_one_object(orthanc: OrthancServer) -> None:
    pacs = connect("orthanc", orthanc)
    (data, *_) = small_series.mr_series()
    problems: list[Exception] = []

    def work() -> None:
        try:
            assert not pacs.store_instance(data).is_conflicting
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not pacs.store_instance(data).is_conflicting
    assert problems == []
    assert len(orthanc.ids("instances")) == 1


# --- archives that only a test would write --------------------------------------------------------


@contextmanager
def answering(answer: Any) -> Iterator[str]:
    """Serve `answer(handler)` to every call; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            try:
                answer(self)
            except OSError:
                self.close_connection = True

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def reply(status: int, body: bytes = b"", **headers: str) -> Any:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = len(body) != int(headers.get("Content_Length", len(body)))

    return answer


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Send a byte now and then, which no time limit on silence catches."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    for _ in range(600):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.1)


def silence(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(3)
    handler.close_connection = True


@pytest.mark.parametrize("answer", [drip, silence])
def test_an_archive_that_is_slow_is_given_up(kind: str, answer: Any) -> None:
    with answering(answer) as url:
        pacs = ADAPTERS[kind](Connection(url=url, timeout_s=0.5, deadline_s=1.0))
        for call in (pacs.list_series, pacs.check):
            with pytest.raises(PacsTooSlow):
                call()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, PacsCredentialsRefused),
        (403, PacsCredentialsRefused),
        (404, PacsBadAnswer),
        (418, PacsBadAnswer),
        (429, PacsUnavailable),
        (500, PacsUnavailable),
        (503, PacsUnavailable),
        (504, PacsTooSlow),
    ],
)
def test_each_status_has_its_meaning(kind: str, status: int, expected: type[Exception]) -> None:
    with answering(reply(status)) as url:
        pacs = ADAPTERS[kind](Connection(url=url))
        for call in (pacs.list_series, pacs.check):
            with pytest.raises(PacsUnavailable) as caught:
                call()
            assert type(caught.value) is expected


@pytest.mark.parametrize("body", [b"<html>", b'{"a": 1', b"[1]", b'"text"'])
def test_what_is_no_archive_is_told_so(kind: str, body: bytes) -> None:
    with answering(reply(200, body)) as url, pytest.raises(PacsUnavailable):
        ADAPTERS[kind](Connection(url=url)).list_series()


def test_a_server_that_knows_no_pages_is_asked_twice_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uid = {"vr": "UI", "Value": ["1.2.3"]}
    page = json.dumps([{"0020000D": uid, "0020000E": uid}]).encode()
    monkeypatch.setattr(dicomweb, "_PAGE", 1)
    monkeypatch.setattr(DicomWebPacs, "_look_into", lambda self, series: None)
    with answering(reply(200, page, Content_Type="application/dicom+json")) as url:
        assert len(DicomWebPacs(Connection(url=url)).list_series()) == 1


def test_a_redirect_is_not_followed(kind: str) -> None:
    followed = []

    def trap(handler: BaseHTTPRequestHandler) -> None:
        followed.append(handler.path)
        reply(200, b"[]")(handler)

    with answering(trap) as inside, answering(reply(302, Location=f"{inside}/secret")) as url:
        pacs = ADAPTERS[kind](Connection(url=url))
        for call in (pacs.list_series, pacs.check):
            with pytest.raises(PacsBadAnswer) as caught:
                call()
            assert "redirect" in caught.value.message
    assert followed == []


def test_an_instance_that_arrives_cut_short_is_no_instance(
    kind: str, orthanc: OrthancServer
) -> None:
    _, instance_id = known_ids(connect(kind, orthanc))
    (data, *_) = small_series.mr_series()
    head = b"--b\r\nContent-Type: application/dicom\r\n\r\n"
    kinds = {
        "orthanc": reply(200, data[:500], Content_Length=str(len(data))),
        "dicomweb": reply(
            200,
            head + data + b"\r\n",
            Content_Type='multipart/related; boundary="b"',
            Content_Length=str(10**6),
        ),
    }
    with answering(kinds[kind]) as url, pytest.raises(PacsUnavailable):
        ADAPTERS[kind](Connection(url=url)).read_instance(instance_id)


@pytest.mark.parametrize("status", [400, 409, 413, 415])
def test_an_object_that_the_archive_will_not_take_is_refused_for_good(
    kind: str, status: int
) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        reply(status if handler.command == "POST" else 404)(handler)

    with answering(answer) as url, pytest.raises(StoreRefused):
        ADAPTERS[kind](Connection(url=url)).store_instance(small_series.mr_series()[0])


def test_an_archive_that_says_yes_and_drops_the_object_is_found_out() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        reply(200, b"{}")(handler) if handler.command == "POST" else reply(404)(handler)

    with answering(answer) as url, pytest.raises(PacsUnavailable) as caught:
        DicomWebPacs(Connection(url=url)).store_instance(small_series.mr_series()[0])
    assert "does not have it" in caught.value.message


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PacsUnavailable):
            OrthancPacs(Connection(url=url)).check()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"SEGMENTATION_PACS": "dcm4chee"}, "SEGMENTATION_PACS"),
        ({"SEGMENTATION_PACS_URL": ""}, "SEGMENTATION_PACS_URL"),
        ({"SEGMENTATION_PACS_URL": "file:///etc/passwd"}, "SEGMENTATION_PACS_URL"),
        ({"SEGMENTATION_PACS_URL": "http://user:pass@pacs"}, "SEGMENTATION_PACS_USER"),
        ({"SEGMENTATION_PACS_TOKEN": "t"}, "SEGMENTATION_PACS_TOKEN"),
    ],
)
def test_settings_that_can_not_be_meant_are_refused(
    settings: Any, changes: dict[str, str], word: str
) -> None:
    good = {
        "SEGMENTATION_PACS": "orthanc",
        "SEGMENTATION_PACS_URL": "http://127.0.0.1:1",
        "SEGMENTATION_PACS_USER": "u",
    }
    for name, value in {**good, **changes}.items():
        setattr(settings, name, value)
    with pytest.raises(ImproperlyConfigured, match=word) as caught:
        get_pacs()
    assert "user:pass" not in str(caught.value)

"""The page's short way, from signing in to the mask, is the same on every kind of server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support.chromium import StudyPage, needs_chromium, open_tab, sign_in, window
from tests.support.http_worker import HttpWorker
from tests.support.live_site import PASSWORD, LiveSite, start_live, stop_live

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.slow, *needs_chromium]

GUNICORN = (sys.executable, "-m", "gunicorn", "reference_site.wsgi:application")
GUNICORN += ("--bind", "127.0.0.1:{port}", "--log-level", "warning")
SERVERS = {
    "uvicorn": (),
    "gunicorn with threads": (*GUNICORN, "--threads", "4"),
    "gunicorn with processes": (*GUNICORN, "--workers", "2"),
}


@pytest.fixture(scope="module", params=SERVERS)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveSite]:
    if not SERVERS[request.param]:
        yield request.getfixturevalue("site")
        return
    folder = tmp_path_factory.mktemp("served")
    started = start_live(folder, command=SERVERS[request.param], password=PASSWORD)
    yield started
    stop_live(started)


def test_from_signing_in_to_the_mask(served: LiveSite, plain_browser: Browser) -> None:
    with (
        served.client("lab") as lab,
        window(plain_browser) as context,
        open_tab(context) as tab,
    ):
        worker, page = HttpWorker(lab), StudyPage(tab, served.url)
        tab.goto(f"{served.url}/")
        sign_in(tab, "doctor", PASSWORD)
        request_id = page.ask(served.series["t1"])
        page.says("Waiting for a worker")
        page.details("Place 1 in the queue")
        job = worker.claim().json()
        assert job["request_id"] == request_id
        worker.beat(job, "inferring", 0.4)
        page.details("40 %")
        worker.serve(job).raise_for_status()
        page.says("Done")
        page.shows(request_id)
        assert page.mask_pixels() == 3 * 4

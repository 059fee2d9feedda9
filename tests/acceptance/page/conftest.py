"""A real site with a user who can sign in, and workers whose steps the tests take one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.chromium import WITHOUT_WEBGL, chromium, open_tab, playwright, sign_in, window
from tests.support.hostile_series import write_hostile
from tests.support.http_worker import HttpWorker
from tests.support.live_site import PASSWORD, LiveSite, start_live, stop_live
from tests.support.marked_series import write_marked

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    """Start one site for all: each test leaves its queue empty."""
    folder = tmp_path_factory.mktemp("page")
    write_marked(folder / "dicom")
    write_hostile(folder / "dicom" / "hostile")
    started = start_live(
        folder,
        password=PASSWORD,
        SEGMENTATION_WAIT_SECONDS="60",
        SEGMENTATION_BACKOFF_SECONDS="0",
        SEGMENTATION_LOG_FORMAT="json",
        LOG_LEVEL="DEBUG",
    )
    yield started
    stop_live(started)


@pytest.fixture(scope="module")
def plain_browser() -> Iterator[Browser]:
    """Give a browser without WebGL: pages are the same, and pictures come at once."""
    with playwright() as driver, chromium(driver, WITHOUT_WEBGL) as started:
        yield started


@pytest.fixture(scope="module")
def signed_in(site: LiveSite, plain_browser: Browser) -> dict[str, Any]:
    """Give the cookies of a doctor, so that not every test has to sign in."""
    with window(plain_browser) as context, open_tab(context) as tab:
        tab.goto(f"{site.url}/")
        sign_in(tab, "doctor", PASSWORD)
        state: dict[str, Any] = context.storage_state()
        return state


@pytest.fixture
def worker(site: LiveSite) -> Iterator[HttpWorker]:
    with site.client("lab") as client:
        yield HttpWorker(client)

"""One analysis as a doctor lives through it, in Chromium; the worker does each step when told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest

from tests.support.chromium import (
    StudyPage,
    assert_accessible,
    needs_chromium,
    open_tab,
    overflow,
    sign_in,
    window,
)
from tests.support.http_worker import HttpWorker
from tests.support.live_site import PASSWORD, SLICES, LiveSite, start_again

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

pytestmark = [pytest.mark.slow, *needs_chromium]

Open = Callable[..., AbstractContextManager[StudyPage]]
AWAY = "net::ERR_"


@pytest.fixture
def study_page(site: LiveSite, plain_browser: Browser, signed_in: dict[str, Any]) -> Open:
    """Open the study page in a window of its own."""

    @contextmanager
    def opened(*, tolerated: str = "", **options: Any) -> Iterator[StudyPage]:
        with (
            window(plain_browser, storage_state=signed_in, **options) as context,
            open_tab(context, tolerated=tolerated) as tab,
        ):
            page = StudyPage(tab, site.url)
            page.open()
            yield page

    return opened


def take(worker: HttpWorker, request_id: str) -> dict[str, Any]:
    """Claim the one request that waits."""
    job: dict[str, Any] = worker.claim(wait_s=20).json()
    assert job["request_id"] == request_id
    return job


class FindsNothing(HttpWorker):
    def draw(self, sources: list[pydicom.Dataset]) -> np.ndarray:
        return super().draw(sources) * 0


def test_a_press_is_answered_at_once_and_a_second_one_does_nothing(
    site: LiveSite, study_page: Open, worker: HttpWorker
) -> None:
    series = site.series["t1"]
    filed = []
    with study_page() as page:
        # The site is held up: what the page does before it is answered has all the time to be seen.
        page.tab.route("**/segment/", lambda route: filed.append(route))
        button = page.button(series)
        button.dblclick()
        page.says("Sending the request…")
        assert button.is_disabled()
        assert "Phantom Api" in page.tab.inner_text("#patient")
        (held,) = filed
        held.continue_()
        page.says("Waiting for a worker")
        page.details("Place 1 in the queue")
        page.details("so far")
        assert button.is_disabled()  # still: it is under way
        job = take(worker, page.request_id)
        # The recognised sequences, in the order in which the model takes them.
        assert job["series_ids"] == [site.series[name] for name in ("t1c", "t1", "t2", "flair")]
        worker.beat(job, "inferring", 0.4)
        page.says("The network is at work")
        page.details("40 %")
        worker.serve(job)
        page.says("Done")
        page.shows(job["request_id"])
        assert page.mask_pixels() == 3 * 4
        assert button.is_enabled()


def test_a_failure_is_told_in_plain_words_and_tried_again(
    site: LiveSite, study_page: Open, worker: HttpWorker
) -> None:
    with study_page() as page:
        first = page.ask(site.series["t1"])
        worker.fail(take(worker, first), code="missing_slices")
        page.says("It did not work: Slices are missing")
        told = page.tab.inner_text("#problem")
        assert "It could not be done." in told  # the worker's own sentence
        assert "Try again" in told
        assert page.tab.locator("#cancel").is_hidden()
        assert_accessible(page.tab)
        page.tab.get_by_role("button", name="Try again").click()
        page.says("Waiting for a worker")
        assert page.request_id != first
        assert page.tab.locator("#problem").is_hidden()
        worker.serve(take(worker, page.request_id))
        page.shows(page.request_id)
        assert page.mask_pixels() > 0


def test_it_is_cancelled_while_it_waits_and_while_it_runs(
    site: LiveSite, study_page: Open, worker: HttpWorker
) -> None:
    with study_page() as page:
        page.ask(site.series["t1"])
        page.says("Waiting for a worker")
        page.tab.get_by_role("button", name="Cancel").click()
        page.says("Cancelled")
        assert worker.claim().status_code == 204
        page.tab.get_by_role("button", name="Try again").click()
        page.says("Waiting for a worker")
        job = take(worker, page.request_id)
        worker.beat(job, "loading", 0.2)
        page.says("The images are being read")
        page.tab.get_by_role("button", name="Cancel").click()
        page.says("Cancelled")
        assert worker.beat(job, "inferring", 0.5).status_code == 410
        assert page.tab.locator("#progress").is_hidden()


def test_a_reload_and_a_second_tab_show_the_same(
    site: LiveSite, study_page: Open, worker: HttpWorker
) -> None:
    with study_page() as page:
        request_id = page.ask(site.series["t1"])
        job = take(worker, request_id)
        worker.beat(job, "inferring", 0.4)
        page.details("40 %")
        before = elapsed_s(page)
        page.tab.reload()
        page.says("The network is at work")
        page.details("40 %")
        assert elapsed_s(page) >= before
        with open_tab(page.tab.context) as tab:
            second = StudyPage(tab, site.url)
            second.open()
            # It finds the request that the other tab asked for by asking for the same.
            assert second.ask(site.series["t1"]) == request_id
            second.details("under way already")
            second.details("40 %")
            worker.beat(job, "writing", 0.9)
            for one in (page, second):
                one.says("The mask is being written")
                one.details("90 %")
            worker.serve(job)
            for one in (page, second):
                one.shows(request_id)
                assert one.mask_pixels() > 0


def elapsed_s(page: StudyPage) -> int:
    words = page.tab.inner_text("#detail").split(" · ")
    (told,) = [one for one in words if one.endswith("so far")]
    minutes, _, seconds = told.removesuffix(" s so far").rpartition(" min ")
    return 60 * int(minutes or 0) + int(seconds)


def test_a_site_that_goes_away_and_comes_back_is_waited_for(
    site: LiveSite, study_page: Open, worker: HttpWorker
) -> None:
    with study_page(tolerated=AWAY) as page:
        request_id = page.ask(site.series["t1"])
        page.says("Waiting for a worker")
        site.process.terminate()
        site.process.wait(60)
        page.tab.get_by_text("The server does not answer; trying again.").wait_for()
        # What one presses meanwhile is told, in words, not to have arrived.
        page.tab.get_by_role("button", name="Cancel").click()
        page.tab.get_by_text("The server does not answer, so nothing was sent").wait_for()
        start_again(site)
        page.tab.locator("#problem").wait_for(state="hidden")
        page.says("Waiting for a worker")
        worker.serve(take(worker, request_id))
        page.shows(request_id)


def test_no_lesion_is_a_success_of_its_own(
    site: LiveSite, study_page: Open, worker: HttpWorker
) -> None:
    with study_page() as page:
        request_id = page.ask(site.series["t1"])
        FindsNothing(worker.client).serve(take(worker, request_id))
        page.says("Done: the model found no lesion")
        page.shows(request_id)
        assert page.tab.get_by_text("The model found no lesion. Its empty mask").is_visible()
        assert page.tab.get_by_role("button", name="Next lesion").is_disabled()
        assert page.tab.locator("#problem").is_hidden()
        assert page.mask_pixels() == 0
        assert_accessible(page.tab)
        assert page.tab.inner_text("#position") == f"Slice 2 of {SLICES}"


def test_the_whole_flow_by_keyboard(
    site: LiveSite, plain_browser: Browser, worker: HttpWorker
) -> None:
    with window(plain_browser) as context, open_tab(context) as tab:
        page = StudyPage(tab, site.url)
        tab.goto(f"{site.url}/login/")
        tab.wait_for_selector("#id_username:focus")
        tab.keyboard.type("doctor")
        tab.keyboard.press("Tab")
        tab.keyboard.type(PASSWORD)
        tab.keyboard.press("Enter")
        tab.wait_for_selector(".workbench")
        go_to(page, page.button(site.series["t1"]))
        tab.keyboard.press("Enter")
        page.says("Waiting for a worker")
        job = take(worker, page.request_id)
        worker.serve(job)
        page.shows(job["request_id"])
        assert page.mask_pixels() > 0
        assert tab.inner_text("#position") == f"Slice 2 of {SLICES}"
        go_to(page, tab.locator("#slices-stage"))
        for key, place in (("Home", 1), ("End", SLICES), ("ArrowDown", 2)):
            tab.keyboard.press(key)
            tab.get_by_text(f"Slice {place} of {SLICES}").wait_for()
        go_to(page, tab.locator("#slider"))
        tab.keyboard.press("ArrowRight")
        tab.get_by_text(f"Slice {SLICES} of {SLICES}").wait_for()
        tab.keyboard.press("Home")
        tab.get_by_text(f"Slice 1 of {SLICES}").wait_for()
        tab.keyboard.press("m")
        tab.locator("#mask").wait_for(state="hidden")
        tab.keyboard.press("?")
        assert tab.get_by_role("dialog").is_visible()
        tab.keyboard.press("Escape")
        assert tab.get_by_role("dialog").is_hidden()


def go_to(page: StudyPage, wanted: Locator) -> None:
    """Press Tab until the focus is there; wherever it is on the way, it can be seen."""
    for _ in range(80):
        page.tab.keyboard.press("Tab")
        focus = page.tab.evaluate(_FOCUS)
        assert focus not in {"none", "0px"}, page.tab.evaluate("document.activeElement.outerHTML")
        if wanted.evaluate("one => one === document.activeElement"):
            return
    raise AssertionError(f"Tab does not come to {wanted}")


# Between the page's end and its beginning the body has it.
_FOCUS = """() => {
  if (document.activeElement === document.body) return "at the end";
  const {outlineStyle, outlineWidth} = getComputedStyle(document.activeElement);
  return outlineStyle === "none" ? "none" : outlineWidth;
}"""


def test_a_narrow_window_needs_no_scrolling_sideways(
    site: LiveSite, study_page: Open, worker: HttpWorker
) -> None:
    with study_page(width=390) as page:
        assert overflow(page.tab) <= 0
        page.ask(site.series["t1"])
        worker.fail(take(worker, page.request_id), code="out_of_memory")
        page.says("It did not work: The worker's memory was not enough")
        assert overflow(page.tab) <= 0
        # Whoever pressed the button sees what came of it without looking for it.
        page.tab.wait_for_function(_IS_IN_VIEW)
        page.tab.get_by_role("button", name="Try again").click()
        page.says("Waiting for a worker")
        worker.serve(take(worker, page.request_id))
        page.shows(page.request_id)
        assert overflow(page.tab) <= 0
        page.tab.get_by_role("link", name="Queue").click()
        page.tab.wait_for_selector("#live-requests")
        assert overflow(page.tab) <= 0


_IS_IN_VIEW = """() => {
  const {top, bottom} = document.getElementById("headline").getBoundingClientRect();
  return top >= 0 && bottom <= innerHeight;
}"""


def test_a_page_that_was_signed_out_says_so(site: LiveSite, study_page: Open) -> None:
    with study_page(tolerated="401") as page:
        page.ask(site.series["t1"])
        page.says("Waiting for a worker")
        page.tab.context.clear_cookies()
        page.says("You are signed out")
        # The request goes on; who signs in again is where they were.
        request_id = page.request_id
        page.tab.reload()
        sign_in(page.tab, "doctor", PASSWORD)
        page.says("Waiting for a worker")
        assert page.request_id == request_id
        page.tab.get_by_role("button", name="Cancel").click()
        page.says("Cancelled")

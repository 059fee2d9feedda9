"""What a page shows of a patient stays on the page, and what an image says is never a program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.chromium import (
    StudyPage,
    assert_accessible,
    needs_chromium,
    open_tab,
    sign_in,
    window,
)
from tests.support.hostile_series import HOSTILE, HOSTILE_NAME
from tests.support.http_worker import HttpWorker
from tests.support.live_site import PASSWORD, LiveSite

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Response

pytestmark = [pytest.mark.slow, *needs_chromium]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# The name, the id and the series' text of the tiny study, as they stand in its images.
OF_THE_PATIENT = ("Phantom", "Api", "P-1")


class Heard:
    """Everything that a tab asked for and was answered."""

    def __init__(self, tab: Page) -> None:
        self.answers: list[Response] = []
        self.titles: list[str] = []
        tab.on("response", lambda answer: self.answers.append(answer))
        tab.on("load", lambda loaded: self.titles.append(loaded.title()))

    def headers(self, name: str) -> dict[str, str]:
        return {one.url: one.headers.get(name, "") for one in self.answers}


def test_nothing_of_a_patient_leaves_the_page(
    site: LiveSite, plain_browser: Browser, worker: HttpWorker
) -> None:
    with window(plain_browser) as context, open_tab(context) as tab:
        heard = Heard(tab)
        page = StudyPage(tab, site.url)
        tab.goto(f"{site.url}/")
        sign_in(tab, "doctor", PASSWORD)
        page.ask(site.series["t1"])
        worker.serve(worker.claim(wait_s=20).json()).raise_for_status()
        page.shows(page.request_id)
        assert "Phantom Api" in tab.inner_text("#screen-patient")
        with tab.expect_download() as download:
            tab.click("#downloads a[href$='mask.dcm']")
        tab.get_by_role("link", name="Queue").click()
        tab.wait_for_selector("#live-requests .patient")
        kept = tab.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
        addresses = [one.request.url for one in heard.answers]

    told = [*addresses, *heard.titles, download.value.suggested_filename, kept]
    told.append(site.log.read_text(encoding="utf-8"))
    assert [word for word in OF_THE_PATIENT if any(word in one for one in told)] == []
    assert len(addresses) > 10
    assert len(set(heard.titles)) == 3  # the way in, the studies, the queue
    of_the_site = {
        url: value
        for url, value in heard.headers("cache-control").items()
        if url.startswith(site.url) and "/static/" not in url
    }
    assert {url for url, value in of_the_site.items() if "no-store" not in value} == set()


def test_every_page_allows_its_own_scripts_only_and_none_complains(
    site: LiveSite, plain_browser: Browser
) -> None:
    # Django's own pages name no icon, and the browser looks for one.
    with window(plain_browser) as context, open_tab(context, tolerated="favicon") as tab:
        tab.goto(f"{site.url}/")
        policies = {"login": tab.request.get(f"{site.url}/login/").headers}
        sign_in(tab, "chief", PASSWORD)
        for place in ("", "queue/", "tokens/"):
            answer = tab.goto(f"{site.url}/{place}", wait_until="networkidle")
            assert answer is not None
            policies[place] = answer.headers
            assert_accessible(tab)
        for place in ("admin/", "admin/django_queue_app/segmentationrequest/"):
            tab.goto(f"{site.url}/{place}", wait_until="networkidle")
        tab.goto(f"{site.url}/")
        tab.get_by_role("button", name="한국어").click()
        tab.get_by_role("button", name="로그아웃").click()
        tab.wait_for_selector("#id_username")
        assert_accessible(tab)
    assert {one["content-security-policy"] for one in policies.values()} == {POLICY}


def test_text_of_an_image_is_shown_as_text_wherever_it_stands(
    site: LiveSite, plain_browser: Browser, worker: HttpWorker
) -> None:
    with window(plain_browser) as context, open_tab(context, tolerated="favicon") as tab:
        page = StudyPage(tab, site.url)
        tab.goto(f"{site.url}/")
        sign_in(tab, "chief", PASSWORD)
        name = HOSTILE_NAME.replace("^", " ").replace("=", " = ")
        study = page.study(site.series["hostile"])
        assert study.locator(".patient").inner_text() == name
        assert study.locator(".series .name").inner_text() == HOSTILE
        page.ask(site.series["hostile"])
        job = worker.claim(wait_s=20).json()
        worker.fail(job, code="x", message=HOSTILE)
        page.says("It did not work")
        assert HOSTILE in tab.inner_text("#problem")
        tab.get_by_role("button", name="Try again").click()
        worker.serve(worker.claim(wait_s=20).json()).raise_for_status()
        page.shows(page.request_id)
        assert name in tab.inner_text("#screen-patient")
        assert HOSTILE in tab.locator("#sequence option").first.inner_text()
        assert ran(tab) is False
        tab.goto(f"{site.url}/queue/?text={HOSTILE}")
        tab.goto(f"{site.url}/queue/")
        assert name in tab.inner_text("#live-requests")
        assert HOSTILE in tab.inner_text("#live-requests .failure")
        assert ran(tab) is False
        tab.goto(f"{site.url}/admin/django_queue_app/segmentationrequest/")
        assert ran(tab) is False


def ran(tab: Page) -> Any:
    """Tell whether a program of the images ran."""
    return tab.evaluate("'ran' in window")

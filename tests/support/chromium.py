"""Debian's Chromium at the site's pages: whatever it complains about fails the test."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page, Playwright

CHROMIUM = shutil.which("chromium")
# Drawn by the CPU: WebGL, too, needs no graphics card.
WITH_WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
WITHOUT_WEBGL = ("--disable-gpu", "--disable-3d-apis")
PATIENCE_MS = 60_000
needs_chromium = [
    pytest.mark.chromium,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's chromium)"),
]


@contextmanager
def playwright() -> Iterator[Playwright]:
    """Start what drives the browsers, one at a time in a process.

    It is not the plugin's, which lives until the session ends: its event loop would be in the way
    of every test that comes later.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as driver:
        yield driver


@contextmanager
def chromium(driver: Playwright, flags: tuple[str, ...] = WITH_WEBGL) -> Iterator[Browser]:
    """Start a browser."""
    started = driver.chromium.launch(
        executable_path=CHROMIUM,
        args=["--no-sandbox", "--no-first-run", "--disable-background-networking", *flags],
    )
    yield started
    started.close()


@contextmanager
def window(
    started: Browser, *, width: int = 1400, language: str = "en", **options: Any
) -> Iterator[BrowserContext]:
    """Give a context whose pages may be opened with `open_tab`."""
    context = started.new_context(
        locale=language,
        viewport={"width": width, "height": 900},
        reduced_motion="reduce",
        **options,
    )
    context.set_default_timeout(PATIENCE_MS)
    try:
        yield context
    finally:
        context.close()


@contextmanager
def open_tab(context: BrowserContext, *, tolerated: str = "") -> Iterator[Page]:
    """Open a tab; an error on its console fails the test, but for those of a pattern."""
    complaints: list[str] = []
    tab = context.new_page()
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on(
        "console",
        lambda told: (
            complaints.append(f"{told.text} {told.location['url']}")
            if told.type == "error"
            else None
        ),
    )
    tab.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    yield tab
    heard = [one for one in complaints if not (tolerated and re.search(tolerated, one))]
    assert not heard, heard


def sign_in(tab: Page, user: str, password: str) -> None:
    """Sign in on the page that asks for it."""
    tab.fill("#id_username", user)
    tab.fill("#id_password", password)
    tab.click("button.primary")
    tab.wait_for_selector(".workbench")


def assert_accessible(tab: Page) -> None:
    """Check the page as it stands: axe finds nothing, and nothing lies beside the screen."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe")
    found = axe.Axe().run(tab).response["violations"]
    named = [(one["id"], [node["target"] for node in one["nodes"]]) for one in found]
    assert not named, named
    assert overflow(tab) <= 0


def overflow(tab: Page) -> int:
    """Tell how many pixels the page can be scrolled sideways."""
    return int(tab.evaluate("document.documentElement.scrollWidth - innerWidth"))


@dataclass(frozen=True)
class StudyPage:
    """The study page as a person uses it."""

    tab: Page
    url: str

    def open(self, request_id: str = "") -> None:
        """Load it anew, with a request on it or none."""
        self.tab.goto("about:blank")
        self.tab.goto(f"{self.url}/#{request_id}")
        self.tab.wait_for_selector(".workbench")

    def study(self, series_id: str) -> Locator:
        """Give the card of the study that a series belongs to."""
        return self.tab.locator("form.study", has=self.tab.locator(f"input[value='{series_id}']"))

    def button(self, series_id: str) -> Locator:
        """Give the button that asks for the analysis."""
        return self.study(series_id).get_by_role("button", name="AI analysis")

    def ask(self, series_id: str) -> str:
        """Press "AI analysis" for a study; return the request's id."""
        before = self.request_id
        self.button(series_id).click()
        self.tab.wait_for_function("before => location.hash.slice(1) !== before", arg=before)
        return self.request_id

    @property
    def request_id(self) -> str:
        """Give the id of the request on the page."""
        return str(self.tab.evaluate("location.hash.slice(1)"))

    def says(self, headline: str) -> None:
        """Wait until the headline is this."""
        self.tab.get_by_role("heading", name=headline, exact=True).wait_for()

    def details(self, words: str) -> None:
        """Wait until the line below the headline holds these words."""
        self.tab.locator("#detail", has_text=words).wait_for()

    def shows(self, request_id: str) -> None:
        """Wait until the picture of a request's result is there."""
        self.tab.wait_for_selector(f"#viewer[data-ready='{request_id}']")

    def mask_pixels(self) -> int:
        """Count the pixels of the mask that lie over the slice (without WebGL)."""
        return int(self.tab.evaluate(_COUNT))


_COUNT = """() => {
  const canvas = document.getElementById("mask");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return data.filter((value, at) => at % 4 === 3 && value > 0).length;
}"""

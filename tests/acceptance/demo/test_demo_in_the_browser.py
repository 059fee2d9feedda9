"""The demonstration's pages as a doctor meets them: in Chromium, at the mask."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.support.demo_run import LONGEST_S, demo

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe")

CHROMIUM = shutil.which("chromium")
# Drawn by the CPU: WebGL, too, needs no graphics card.
WITH_WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
WITHOUT_WEBGL = ("--disable-gpu", "--disable-3d-apis")
PATIENCE_MS = 60_000
# The values that the network was trained with, as in BraTS: there is no 3.
LABELS = {"Necrotic core": 1, "Edema": 2, "Enhancing tumor": 4}
# Where the crosshair is, as the page says it: towards the left, back and head of the patient.
PLACE = re.compile(r"([LR]) ([\d.]+) · ([AP]) ([\d.]+) · ([SI]) ([\d.]+) mm · .* · (.+)")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.chromium,
    pytest.mark.timeout(2 * LONGEST_S),
    pytest.mark.skipif(os.name == "nt", reason="starts the shell script"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's chromium)"),
]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A demonstration that stays up."""

    address: str
    user: str
    password: str
    request_id: str
    mask: Path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("demo")
    with demo(folder, "--keep") as running:
        running.wait_for("Ctrl-C stops it")
        request_id = running.found(r"request +([0-9a-f-]{36})")
        yield Shown(
            address=running.found(r"page +(\S+)"),
            user=running.found(r"user (\S+),"),
            password=running.found(r"one-time password (\S+)"),
            request_id=request_id,
            mask=folder / "result" / request_id / "mask.nii.gz",
        )


@contextmanager
def signed_in(
    shown: Shown, *, language: str = "en", width: int = 1400, flags: tuple[str, ...] = WITH_WEBGL
) -> Iterator[playwright.Page]:
    """Open the studies; whatever the browser complains about fails the test."""
    complaints: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--no-first-run", "--disable-background-networking", *flags],
        )
        context = browser.new_context(
            locale=language, viewport={"width": width, "height": 900}, reduced_motion="reduce"
        )
        context.set_default_timeout(PATIENCE_MS)
        tab = context.new_page()
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on(
            "console",
            lambda message: complaints.append(message.text) if message.type == "error" else None,
        )
        tab.goto(shown.address)
        tab.fill("#id_username", shown.user)
        tab.fill("#id_password", shown.password)
        tab.click("button.primary")
        tab.wait_for_selector(".study")
        yield tab
        context.close()
        browser.close()
    assert complaints == []


def open_mask(tab: playwright.Page, shown: Shown) -> None:
    tab.goto(f"{shown.address}#{shown.request_id}")
    tab.wait_for_selector("#viewer[data-ready]")


def assert_accessible(tab: playwright.Page) -> None:
    found = axe.Axe().run(tab).response["violations"]
    named = [(one["id"], [node["target"] for node in one["nodes"]]) for one in found]
    assert named == []
    assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_the_crosshair_names_the_segment_that_the_mask_has_at_that_place(shown: Shown) -> None:
    mask = nib.load(shown.mask)
    values = np.asarray(mask.dataobj)
    seen = set()
    with signed_in(shown) as tab:
        open_mask(tab, shown)
        for segment in LABELS:
            tab.get_by_role("button", name=segment).or_(
                tab.get_by_role("link", name=segment)
            ).first.click()
            tab.wait_for_function(
                "name => document.getElementById('readout').innerText.endsWith(name)", arg=segment
            )
            place = PLACE.fullmatch(tab.inner_text("#readout"))
            assert place, tab.inner_text("#readout")
            side, x, face, y, end, z, name = place.groups()
            # NIfTI counts towards right, front and head.
            mm = (
                float(x) if side == "R" else -float(x),
                float(y) if face == "A" else -float(y),
                float(z) if end == "S" else -float(z),
            )
            voxel = np.linalg.inv(mask.affine) @ (*mm, 1.0)
            i, j, k = np.round(voxel[:3]).astype(int)
            assert values[i, j, k] == LABELS[name]
            seen.add(name)
    assert seen == set(LABELS)


@pytest.mark.parametrize(("language", "width"), [("en", 1400), ("ko", 390)])
def test_the_pages_pass_the_accessibility_rules_and_fit_the_screen(
    shown: Shown, language: str, width: int
) -> None:
    with signed_in(shown, language=language, width=width) as tab:
        assert tab.get_attribute("html", "lang") == language
        assert_accessible(tab)
        open_mask(tab, shown)
        assert_accessible(tab)
        tab.goto(f"{shown.address}queue/")
        tab.wait_for_selector(f"a[href*='{shown.request_id}']")
        assert_accessible(tab)


def test_a_browser_without_webgl_shows_the_slices(shown: Shown) -> None:
    with signed_in(shown, flags=WITHOUT_WEBGL) as tab:
        open_mask(tab, shown)
        first = tab.inner_text("#position")
        tab.press("#slices-stage", "ArrowUp")
        tab.wait_for_function(
            "before => document.getElementById('position').innerText !== before", arg=first
        )
        assert re.fullmatch(r"Slice \d+ of 52", tab.inner_text("#position"))

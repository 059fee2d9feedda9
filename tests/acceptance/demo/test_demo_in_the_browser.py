"""The demonstration's pages as a doctor meets them: in Chromium, at the mask."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from demo.pictures import MOST_BYTES, take
from demo.pictures import Shown as PlaceOfPictures
from tests.support.chromium import (
    WITH_WEBGL,
    WITHOUT_WEBGL,
    StudyPage,
    assert_accessible,
    chromium,
    needs_chromium,
    open_tab,
    playwright,
    sign_in,
    window,
)
from tests.support.demo_run import LONGEST_S, demo
from tests.support.planes_on_screen import CROSSHAIR, TILES, is_coloured, read_picture, tile_of

if TYPE_CHECKING:
    from playwright.sync_api import Page

# The values that the network was trained with, as in BraTS: there is no 3.
LABELS = {"Necrotic core": 1, "Edema": 2, "Enhancing tumor": 4}
# Where the crosshair is, as the page says it: towards the left, back and head of the patient.
PLACE = re.compile(
    r"([LR]) ([\d.]+) · ([AP]) ([\d.]+) · ([SI]) ([\d.]+) mm · Intensity (-?[\d,.]+) · (.+)"
)
# One of them is seen at least: the page looks every second.
STAGE = "(fetches the images|images are being read|network is at work|being written|way back)"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * LONGEST_S),
    pytest.mark.skipif(os.name == "nt", reason="starts the shell script"),
    *needs_chromium,
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
    shown: Shown, *, flags: tuple[str, ...] = WITH_WEBGL, **options: Any
) -> Iterator[Page]:
    """Open the studies."""
    with (
        playwright() as driver,
        chromium(driver, flags) as browser,
        window(browser, **options) as context,
        open_tab(context) as tab,
    ):
        tab.goto(shown.address)
        sign_in(tab, shown.user, shown.password)
        yield tab


def open_mask(tab: Page, shown: Shown) -> None:
    tab.goto(f"{shown.address}#{shown.request_id}")
    tab.wait_for_selector("#viewer[data-ready]")


# Whatever the headline and the line below it say, from now on.
_LISTEN = """() => {
  window.told = [];
  const note = () => told.push(["headline", "detail"].map((id) =>
    document.getElementById(id).textContent).join(": "));
  new MutationObserver(note).observe(document.getElementById("request"),
    {subtree: true, childList: true, characterData: true});
}"""


def test_from_the_click_to_the_mask_with_the_real_worker_and_network(shown: Shown) -> None:
    with signed_in(shown) as tab:
        page = StudyPage(tab, shown.address.rstrip("/"))
        tab.evaluate(_LISTEN)
        tab.get_by_role("button", name="AI analysis").click()
        tab.wait_for_function("told[0].startsWith('Sending the request…')")
        assert tab.get_by_role("button", name="AI analysis").is_disabled()
        tab.wait_for_selector("#viewer[data-ready]", timeout=1000 * LONGEST_S)
        assert page.request_id != shown.request_id
        told = "\n".join(tab.evaluate("told"))
        assert re.search(STAGE + r": \d+ % · (\d+ min )?\d+ s so far", told), told
        assert "Done: by demo-worker" in told
        for segment in LABELS:
            assert tab.get_by_role("button", name=segment, exact=True).is_visible()
        tab.locator("#opacity").press("End")
        with_mask = tab.locator("#planes").screenshot()
        tab.keyboard.press("m")
        assert not tab.locator("#overlay").is_checked()
        assert tab.locator("#planes").screenshot() != with_mask


def test_the_crosshair_names_the_segment_and_the_intensity_of_that_place(shown: Shown) -> None:
    mask = nib.load(shown.mask)
    labels = np.asarray(mask.dataobj)
    seen = set()
    with signed_in(shown) as tab:
        open_mask(tab, shown)
        image = volume_of(tab, shown)
        np.testing.assert_allclose(image.affine, mask.affine, atol=1e-3)
        intensities = np.asarray(image.dataobj)
        for segment in LABELS:
            tab.get_by_role("button", name=segment).or_(
                tab.get_by_role("link", name=segment)
            ).first.click()
            tab.wait_for_function(
                "name => document.getElementById('readout').innerText.endsWith(name)", arg=segment
            )
            place = PLACE.fullmatch(tab.inner_text("#readout"))
            assert place, tab.inner_text("#readout")
            side, x, face, y, end, z, intensity, name = place.groups()
            # NIfTI counts towards right, front and head.
            mm = (
                float(x) if side == "R" else -float(x),
                float(y) if face == "A" else -float(y),
                float(z) if end == "S" else -float(z),
            )
            voxel = np.linalg.inv(mask.affine) @ (*mm, 1.0)
            i, j, k = np.round(voxel[:3]).astype(int)
            assert labels[i, j, k] == LABELS[name]
            assert intensities[i, j, k] == float(intensity.replace(",", ""))
            seen.add(name)
        picture = read_picture(tab.locator("#planes").screenshot())
    assert seen == set(LABELS)
    for plane in TILES:  # a line thinner than a pixel would not be drawn
        lines = is_coloured(tile_of(picture, plane), CROSSHAIR)
        assert lines.sum(axis=1).max() > 0.5 * lines.shape[1], plane
        assert lines.sum(axis=0).max() > 0.2 * lines.shape[0], plane


def volume_of(tab: Page, shown: Shown) -> nib.Nifti1Image:
    """Read the series below the mask, as the page does."""
    series_id = tab.input_value("#sequence")
    answer = tab.request.get(f"{shown.address}viewer/series/{series_id}/volume.nii.gz")
    return nib.Nifti1Image.from_bytes(gzip.decompress(answer.body()))


@pytest.mark.parametrize(
    ("language", "width", "scheme"), [("en", 1400, "light"), ("ko", 390, "dark")]
)
def test_the_pages_pass_the_accessibility_rules_and_fit_the_screen(
    shown: Shown, language: str, width: int, scheme: str
) -> None:
    with signed_in(shown, language=language, width=width, color_scheme=scheme) as tab:
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


def test_the_readmes_pictures_are_taken(shown: Shown, tmp_path: Path) -> None:
    there = PlaceOfPictures(
        address=shown.address, request_id=shown.request_id, password=shown.password
    )
    taken = take(there, tmp_path)
    assert [path.name for path in taken] == ["study.png", "mask.png", "queue.png"]
    for path in taken:
        assert path.stat().st_size < MOST_BYTES
        with Image.open(path) as picture:
            # A page that is not there yet has hardly a colour.
            assert len(picture.convert("RGB").getcolors(picture.width * picture.height)) > 20

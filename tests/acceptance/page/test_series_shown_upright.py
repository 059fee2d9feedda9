"""However a series was acquired, its picture lies as doctors expect it, and its letters are true.

What is seen is read from the pixels of the screen and compared with the phantom's own numbers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tests.support.chromium import (
    WITH_WEBGL,
    WITHOUT_WEBGL,
    StudyPage,
    chromium,
    needs_chromium,
    open_tab,
    playwright,
    sign_in,
    window,
)
from tests.support.dicom_phantoms import Grid
from tests.support.live_site import PASSWORD, LiveSite
from tests.support.marked_series import GRIDS, MARK, Marks
from tests.support.planes_on_screen import CROSSHAIR, Picture, is_coloured, read_picture, tile_of

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.slow, *needs_chromium]

DIRECTIONS = {
    "L": (1, 0, 0),
    "R": (-1, 0, 0),
    "P": (0, 1, 0),
    "A": (0, -1, 0),
    "S": (0, 0, 1),
    "I": (0, 0, -1),
}
SIDES = ("left", "right", "top", "bottom")
# At these sides of the picture, as radiologists hang it.
AS_EXPECTED = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
PLANE_OF = {"flipped": "axial", "transposed": "axial", "oblique_sagittal": "sagittal"}
MASK = (230, 159, 0)  # on the screen
OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}


@pytest.fixture(scope="module")
def masks(site: LiveSite) -> dict[str, str]:
    """Give a finished request for each series."""
    done = {}
    with site.client("user") as user, site.client("lab") as lab:
        worker = Marks(lab)
        for name, grid in GRIDS.items():
            worker.grid = grid
            user.post(f"/series/{site.series[name]}/request-local/", json={}).raise_for_status()
            job = worker.claim(wait_s=20).json()
            worker.serve(job).raise_for_status()
            done[name] = job["request_id"]
    return done


Box = tuple[float, float, float, float]  # left, top, right, bottom


@pytest.fixture(scope="module")
def tabs(site: LiveSite) -> Iterator[dict[str, Page]]:
    """Give a tab in a browser with WebGL, and one in a browser without."""
    with playwright() as driver, ExitStack() as stack:
        opened = {}
        for kind, flags in (("planes", WITH_WEBGL), ("slices", WITHOUT_WEBGL)):
            browser = stack.enter_context(chromium(driver, flags))
            tab = stack.enter_context(open_tab(stack.enter_context(window(browser))))
            tab.goto(f"{site.url}/")
            sign_in(tab, "doctor", PASSWORD)
            opened[kind] = tab
        yield opened


def show(tab: Page, site: LiveSite, request_id: str) -> None:
    """Open a finished request; its mask covers what is below it."""
    page = StudyPage(tab, site.url)
    page.open(request_id)
    page.shows(request_id)
    tab.locator("#opacity").press("End")


def screenshot(tab: Page, selector: str, *, is_masked: bool) -> Picture:
    """Give what is on the screen, once the mask, or the mark without it, is there."""
    end = time.monotonic() + 60
    while True:
        data = tab.locator(selector).screenshot()
        picture = read_picture(data)
        seen = is_coloured(picture, MASK).any()
        if seen == is_masked and (is_masked or is_bright(picture).any()):
            return picture
        assert time.monotonic() < end, "the mask can't be shown or hidden"


def is_bright(picture: Picture) -> Any:
    """Tell where the mark itself is: the one thing of the series that is nearly white."""
    return picture.min(axis=2) > 200


def middle_of(pixels: Any) -> tuple[float, float]:
    rows, columns = np.nonzero(pixels)
    assert len(rows) > 50, "it is not to be seen"
    return float(columns.mean()), float(rows.mean())


def box_of(pixels: Any) -> Box:
    rows, columns = np.nonzero(pixels)
    return tuple(float(n) for n in (columns.min(), rows.min(), columns.max(), rows.max()))  # type: ignore[return-value]


def assert_lies_right(middle: tuple[float, float], box: Box, letters: str, grid: Grid) -> None:
    """Check a mark in the picture against the letters, and the picture's proportions."""
    left, top, right, bottom = box
    seen = (
        (middle[0] - (left + right) / 2) / (right - left),
        (middle[1] - (top + bottom) / 2) / (bottom - top),
    )
    (across, wide_mm), (down, high_mm) = (along(grid, letters[side]) for side in (1, 3))
    assert min(abs(across), abs(down)) > 0.1, "the phantom's mark is too near its middle"
    assert seen == pytest.approx((across, down), abs=0.04)
    assert (right - left) / (bottom - top) == pytest.approx(wide_mm / high_mm, rel=0.1)


def along(grid: Grid, letter: str) -> tuple[float, float]:
    """Give how far the mark is from the middle towards a letter, and the grid's length that way.

    Along the axis of the grid that lies nearest to the direction: the first as a fraction of the
    axis, the second in mm.
    """
    axes = (grid.row, grid.column, grid.normal)
    cosines = [float(np.dot(axis, DIRECTIONS[letter])) for axis in axes]
    axis = int(np.argmax(np.abs(cosines)))
    count = grid.shape[axis]
    away = (MARK[axis].start + MARK[axis].stop - count) / 2 / count
    return float(np.sign(cosines[axis])) * away, count * grid.spacing_mm[axis]


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_single_slices_lie_upright(
    name: str, site: LiveSite, masks: dict[str, str], tabs: dict[str, Page]
) -> None:
    tab = tabs["slices"]
    show(tab, site, masks[name])
    letters = "".join(tab.inner_text(f"#slices-stage .letter.{side}") for side in SIDES)
    assert letters == AS_EXPECTED[PLANE_OF[name]]
    assert tab.locator("#convention").is_visible() == letters.startswith("R")
    with_mask = screenshot(tab, "#slices-stage", is_masked=True)
    tab.locator("#overlay").uncheck()
    without = screenshot(tab, "#slices-stage", is_masked=False)
    rows, columns, _ = without.shape
    for mark in (is_coloured(with_mask, MASK), is_bright(without)):
        assert_lies_right(middle_of(mark), (0, 0, columns, rows), letters, GRIDS[name])


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_three_planes_lie_upright(
    name: str, site: LiveSite, masks: dict[str, str], tabs: dict[str, Page]
) -> None:
    tab = tabs["planes"]
    show(tab, site, masks[name])
    with_mask = screenshot(tab, "#planes", is_masked=True)
    tab.locator("#overlay").uncheck()
    without = screenshot(tab, "#planes", is_masked=False)
    for plane, letters in AS_EXPECTED.items():
        marked, bare = (tile_of(picture, plane) for picture in (with_mask, without))
        box = box_of(is_coloured(bare, CROSSHAIR))  # it crosses the whole plane
        for side, letter in zip(SIDES, letters, strict=True):
            assert_reads(letters_at(bare, box, side), letter)
        for mark in (is_coloured(marked, MASK), is_bright(bare)):
            assert_lies_right(middle_of(mark), box, letters, GRIDS[name])


def letters_at(picture: Picture, box: Box, side: str) -> Any:
    """Give the yellow pixels at the middle of one side of a plane."""
    left, top, right, bottom = box
    x = {"left": left, "right": right}.get(side, (left + right) / 2)
    y = {"top": top, "bottom": bottom}.get(side, (top + bottom) / 2)
    near = picture[
        max(round(y) - 24, 0) : round(y) + 24,
        max(round(x) - 24, 0) : round(x) + 24,
    ]
    return near[:, :, 0] - near[:, :, 2] > 80


def assert_reads(drawn: Any, letter: str) -> None:
    """Check that it is this letter, and not the one of the opposite side."""
    right, wrong = (likeness(drawn, glyph(one)) for one in (letter, OPPOSITE[letter]))
    assert right > max(0.5, wrong + 0.2), (letter, right, wrong)


def glyph(letter: str) -> Any:
    canvas = Image.new("L", (80, 80))
    ImageDraw.Draw(canvas).text((20, 20), letter, 255, ImageFont.load_default(40))
    return np.asarray(canvas) > 127


def likeness(drawn: Any, wanted: Any) -> float:
    """Compare two letters, each laid into one box without losing its proportions."""
    one, other = (in_a_box(pixels) for pixels in (drawn, wanted))
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def in_a_box(pixels: Any) -> Any:
    left, top, right, bottom = (round(n) for n in box_of(pixels))
    cut = Image.fromarray(pixels[top : bottom + 1, left : right + 1].astype(np.uint8) * 255)
    high = 40
    wide = max(round(cut.width * high / cut.height), 1)
    box = Image.new("L", (60, high))
    box.paste(cut.resize((wide, high)), ((60 - wide) // 2, 0))
    # Another typeface has its strokes a little beside ours.
    return np.asarray(box.filter(ImageFilter.GaussianBlur(3)), float)

"""A page from before this project: it knows two calls and gets the answers that it always got.

It is written from CONTRACT 2.1 alone: no `Prefer`, no CSRF token, no `Authorization`; the browser's
cookie is all that it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.chromium import needs_chromium, open_tab, window
from tests.support.http_worker import HttpWorker
from tests.support.live_site import SLICES, LiveSite

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.slow, *needs_chromium]

EXISTING_PAGE = """<!doctype html><title>Viewer</title><script>
const api = "/api/mri/segmentation/";
async function segment(series, sequences) {
  const answer = await fetch(`${api}series/${series}/segment/`, {
    method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify({sequence_series_ids: sequences}),
  });
  return {status: answer.status, body: await answer.json()};
}
async function frames(instance) {
  const answer = await fetch(`${api}instances/${instance}/frames/`);
  return answer.json();
}
async function inside(frame) {
  const picture = new Image();
  picture.src = "data:image/png;base64," + frame.mask_base64;
  await picture.decode();
  const canvas = Object.assign(document.createElement("canvas"),
    {width: picture.width, height: picture.height});
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const {data} = context.getImageData(0, 0, picture.width, picture.height);
  const found = [];
  for (let at = 0; at < data.length / 4; at++)
    if (data[4 * at]) found.push([Math.floor(at / picture.width), at % picture.width]);
  return {size: [picture.height, picture.width], found};
}
</script>"""


@pytest.fixture
def existing_page(
    site: LiveSite, plain_browser: Browser, signed_in: dict[str, Any]
) -> Iterator[Page]:
    """Open it at the site's own address, where the front end's server put it."""
    address = f"{site.url}/existing-viewer.html"
    with (
        window(plain_browser, storage_state=signed_in) as context,
        open_tab(context, tolerated="502") as tab,
    ):
        tab.route(
            address, lambda route: route.fulfill(body=EXISTING_PAGE, content_type="text/html")
        )
        tab.goto(address)
        yield tab


def ask(tab: Page, site: LiveSite) -> None:
    """Press its button; the call stays open until there is a result."""
    names = ("t1c", "t1", "t2", "flair")
    ids = [site.series[name] for name in names]
    tab.evaluate("([main, all]) => { window.answer = segment(main, all); }", [ids[0], ids])


def test_it_gets_the_result_and_the_frames_of_the_mask(
    site: LiveSite, existing_page: Page, worker: HttpWorker
) -> None:
    ask(existing_page, site)
    job = worker.claim(wait_s=20).json()
    worker.serve(job).raise_for_status()
    answer = existing_page.evaluate("answer")
    body = answer["body"]
    assert answer["status"] == 200
    assert body["segments"][0].items() >= {"number": 1, "label": "Box", "voxels": 12}.items()
    assert (
        body.items()
        >= {
            "success": True,
            "request_id": job["request_id"],
            "series_id": site.series["t1c"],
            "status": "completed",
            "tumor_detected": True,
            "tumor_volume_voxels": 12,
            "tumor_volume_ml": 0.012,
            "saved_to_pacs": True,
            "saved_to_orthanc": True,
            "elapsed_time_seconds": 0.5,
            "total_slices": SLICES,
            "start_slice_index": 1,
            "end_slice_index": 1,
            "processed_by": "pc-1",
            "model": {"name": "demo", "version": "1", "sha256": "0" * 64},
            "warnings": [],
        }.items()
    )

    frames = existing_page.evaluate("id => frames(id)", body["seg_instance_id"])
    assert (frames["success"], frames["num_frames"]) == (True, SLICES)
    assert [one["index"] for one in frames["frames"]] == list(range(SLICES))
    drawn = [existing_page.evaluate("one => inside(one)", one) for one in frames["frames"]]
    assert all(one["size"] == [12, 16] for one in drawn)
    box = [[row, column] for row in range(2, 5) for column in range(3, 7)]
    assert [one["found"] for one in drawn] == [[], box, []]  # empty slices, too


def test_it_is_told_that_it_failed_and_never_that_it_is_done(
    site: LiveSite, existing_page: Page, worker: HttpWorker
) -> None:
    ask(existing_page, site)
    worker.fail(worker.claim(wait_s=20).json(), code="missing_slices").raise_for_status()
    answer = existing_page.evaluate("answer")
    assert answer["status"] == 502
    assert answer["body"]["success"] is False
    assert "It could not be done." in answer["body"]["error"]

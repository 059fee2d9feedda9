"""The README's pictures, taken from a running demonstration by Chromium.

    python -m demo.pictures [--out docs/images] [--folder DIR] [--language en|ko]
    python -m demo.pictures --at ADDRESS --request ID --password PASSWORD

Without `--at` it runs the demonstration first. The images are synthetic: no patient is in them.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from demo.children import DemoError
from demo.place import USER

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[1]
# Beyond this a picture makes the README slow to read.
MOST_BYTES = 300_000
_WIDTH, _HEIGHT = 1560, 1000
_PATIENCE_MS = 240_000  # WebGL drawn by the CPU takes its time
_COLOURS = (256, 192, 128, 64)
_FLAGS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")

_API = "/api/mri/segmentation/"
_FILE = f"""async ([series, isLocal]) => {{
  const answer = await fetch(`{_API}series/${{series}}/segment/?use_local=${{isLocal}}`, {{
    method: "POST",
    headers: {{"Content-Type": "application/json", Prefer: "respond-async"}},
    body: JSON.stringify({{sequence_series_ids: [series], force: true}}),
  }});
  return (await answer.json()).request_id;
}}"""
_STATUS = f"""async (id) => {{
  const answer = await fetch(`{_API}status/${{id}}/`);
  return (await answer.json()).status;
}}"""
_CANCEL = f"""(id) => fetch(`{_API}requests/${{id}}/cancel/`, {{method: "POST"}})"""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A running demonstration: where its page is, and who may look."""

    address: str
    request_id: str
    password: str


def main(arguments: Sequence[str]) -> int:
    """Take the pictures; return the exit code."""
    given = _parse(arguments)
    try:
        if given.at:
            shown = Shown(address=given.at, request_id=given.request, password=given.password)
            names = take(shown, given.out, language=given.language)
        else:
            with running_demo(given.folder) as shown:
                names = take(shown, given.out, language=given.language)
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1
    for path in names:
        print(f"{path} ({path.stat().st_size / 1000:.0f} kB)")
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo.pictures", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", metavar="DIR")
    parser.add_argument("--folder", type=Path, default=ROOT / "var" / "demo", metavar="DIR")
    parser.add_argument("--language", choices=("en", "ko"), default="en")
    parser.add_argument("--at", metavar="ADDRESS", help="a demonstration that runs already")
    parser.add_argument("--request", metavar="ID", help="a finished request of it")
    parser.add_argument("--password", help="as it printed it")
    given = parser.parse_args(arguments)
    if given.at and not (given.request and given.password):
        parser.error("--at needs --request and --password")
    return given


@contextmanager
def running_demo(folder: Path) -> Iterator[Shown]:
    """Run the demonstration while the block lasts.

    Raises
    ------
    DemoError
        It ended before there was a mask.
    """
    command = [sys.executable, "-m", "demo", "--keep", "--folder", str(folder)]
    english = {**os.environ, "WORKER_LANG": "en"}  # what it prints is read below
    with subprocess.Popen(
        command, cwd=ROOT, env=english, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield _read(process)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)


def _read(process: subprocess.Popen[str]) -> Shown:
    """Follow what the demonstration prints until it stays up."""
    text = ""
    for line in process.stdout or ():
        print(line, end="", flush=True)
        text += line
        if "stays up" in line:
            return Shown(
                address=_found(r"page +(\S+)", text),
                request_id=_found(r"request ([0-9a-f-]{36}) filed", text),
                password=_found(r"one-time password (\S+)", text),
            )
    raise DemoError("The demonstration ended before there was a mask; its words are above.")


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise DemoError(f"The demonstration did not print {pattern!r}.")
    return match.group(1)


def take(shown: Shown, out: Path, *, language: str = "en") -> list[Path]:
    """Take the study page with its mask, the queue page, and the mask over the anatomy.

    Raises
    ------
    DemoError
        Chromium or playwright is not installed, or a picture is too large for a README.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _signed_in(shown, language) as tab:
        tab.goto(f"{shown.address}#{shown.request_id}")
        tab.wait_for_selector("#viewer[data-ready]")
        tab.locator("#request").scroll_into_view_if_needed()
        pictures = {"study": tab.screenshot()}
        tab.check("input[value=outline]")
        pictures["mask"] = tab.locator(".screen").screenshot()
        waiting = _fill_queue(tab)
        tab.goto(f"{shown.address.rstrip('/')}/queue/")
        tab.wait_for_selector(".state.failed")
        pictures["queue"] = tab.screenshot()
        tab.evaluate(_CANCEL, waiting)
    return [_write(out / f"{name}.png", picture) for name, picture in pictures.items()]


def _fill_queue(tab: Page) -> str:
    """File what fails (one series where the network takes four) and what waits; return the latter.

    In the cloud lane nobody works, so what is filed there waits.
    """
    series = tab.locator("input[name=series]").first.get_attribute("value")
    failing, waiting = (tab.evaluate(_FILE, [series, lane]) for lane in ("true", "false"))
    end = time.monotonic() + _PATIENCE_MS / 1000
    while tab.evaluate(_STATUS, failing) != "failed":
        if time.monotonic() > end:
            raise DemoError("The request that should fail did not; look at the worker's log.")
        tab.wait_for_timeout(500)
    return str(waiting)


@contextmanager
def _signed_in(shown: Shown, language: str) -> Iterator[Page]:
    """Open the studies as the demonstration's doctor."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise DemoError("The pictures need playwright: ./start_worker.sh setup test") from error
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise DemoError("The pictures need Chromium: sudo apt install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(_FLAGS))
        context = browser.new_context(
            locale=language, viewport={"width": _WIDTH, "height": _HEIGHT}, color_scheme="dark"
        )
        context.set_default_timeout(_PATIENCE_MS)
        tab = context.new_page()
        tab.goto(shown.address)
        tab.fill("#id_username", USER)
        tab.fill("#id_password", shown.password)
        tab.click("button.primary")
        tab.wait_for_selector(".workbench")
        yield tab
        browser.close()


def _write(path: Path, picture: bytes) -> Path:
    """Write a picture with as many colours as fit."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    for colours in _COLOURS:
        image.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < MOST_BYTES:
            return path
    raise DemoError(f"{path} has {path.stat().st_size / 1000:.0f} kB: take a smaller part.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The whole path on one machine: site, worker, a sample, one request as a front end files it.

    python -m demo [--keep] [--fresh] [--folder DIR] [--timeout SECONDS]

Everything lies under `var/demo`, or DIR. The images are synthetic and the model is a demonstration:
neither is for clinical use.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from demo.children import Children, DemoError
from demo.front_end import FrontEnd
from demo.place import CHANNELS, MODEL, USER, Access, Place
from demo.report import ProgressLine, describe_page, describe_result
from worker import language
from worker.language import said

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
# On two busy cores the sample takes about a minute; beyond this something hangs.
DEFAULT_TIMEOUT_S = 900.0
_SITE_START_S = 90.0
_PORT_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    folder: Path | None
    is_kept: bool
    is_fresh: bool
    timeout_s: float


def main(arguments: Sequence[str]) -> int:
    """Run the demonstration; return the exit code."""
    options = _parse(arguments)
    language.use(language.choose())
    place = Place(Path(__file__).resolve().parents[1], options.folder)
    place.make()
    children = Children(place.state)
    # SIGINT, too: what a script starts in the background is born deaf to it.
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    try:
        children.end_leftovers()
        children.remember()
    except DemoError as error:
        return _fail(error, place)
    try:
        _run(options, place, children)
    except DemoError as error:
        return _fail(error, place)
    except KeyboardInterrupt:
        print(said("\nInterrupted."), file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        with _deaf_to_stop_signals():
            children.stop()
    return 0


def _parse(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(
        prog="start_worker.sh demo",
        description="Segment a synthetic sample case end to end on this machine.",
    )
    parser.add_argument("--keep", action="store_true", help="leave it running until Ctrl-C")
    parser.add_argument("--fresh", action="store_true", help="begin with an empty folder")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="keep everything here instead of in var/demo"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help="give the request up after this long (default: %(default)g)",
    )
    given = parser.parse_args(arguments)
    return Options(
        folder=given.folder,
        is_kept=given.keep,
        is_fresh=given.fresh,
        timeout_s=given.timeout,
    )


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _deaf_to_stop_signals() -> Iterator[None]:
    """Let a second Ctrl-C not cut short what stops the processes."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _fail(error: DemoError, place: Place) -> int:
    print(said(f"{error}\nLogs: {place.logs}"), file=sys.stderr)
    return EXIT_FAILED


def _run(options: Options, place: Place, children: Children) -> None:
    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {said(text)}", flush=True)

    print(said("The whole path on this machine: synthetic images, a demonstration model."))
    print(said("Not for clinical use.") + "\n")
    if options.is_fresh:
        place.wipe()
        children.remember()
    tell(f"preparing {place.folder}")
    password = secrets.token_urlsafe(9)
    place.prepare(password)
    with ThreadPoolExecutor(max_workers=2) as pool:
        access = pool.submit(place.find_access)
        imported = pool.submit(place.import_sample, tell)
        address = _start_site(place, children)
        tell(f"site on {address}")
        front_end, worker_token = _enter(place, address, access.result())
        # Before the sample is there: the worker loads its network meanwhile.
        place.start_worker(children, address, worker_token)
        children.remember(address)
        tell("worker beside it")
        series_uids = imported.result()
    request_id = front_end.file_request(_choose_series(front_end, series_uids), MODEL)
    tell(f"request {request_id} filed ({', '.join(CHANNELS)})")
    status, seconds = _follow(front_end, request_id, options, children, tell)
    files = front_end.fetch_artifacts(status, place.results / request_id)
    print()
    print(describe_result(status, files=files, request_seconds=seconds))
    print(describe_page(f"{address}/", said(f"user {USER}, one-time password {password}")))
    if options.is_kept:
        _keep(children)
    else:
        print(describe_page("", said("(stopped now; with --keep it stays up until Ctrl-C)")))


def _enter(place: Place, address: str, access: Access) -> tuple[FrontEnd, str]:
    """Sign in as a front end; return it and the worker's token."""
    front_end = FrontEnd(address, access.user_token)
    if not front_end.is_known():  # the data folder was changed under it
        access = place.make_access()
        front_end = FrontEnd(address, access.user_token)
    front_end.cancel_unfinished()
    return front_end, access.worker_token


def _start_site(place: Place, children: Children) -> str:
    """Start the site on a free loopback port; return its address."""
    for attempt in range(1, _PORT_TRIES + 1):
        child, address = place.start_site(children)
        children.remember(address)
        probe = FrontEnd(address, "none")
        end = time.monotonic() + _SITE_START_S
        while child.process.poll() is None and time.monotonic() < end:
            if probe.is_up():
                return address
            time.sleep(0.1)
        # Another program may have taken the port in between: a new one is tried.
        if child.process.poll() is None or attempt == _PORT_TRIES:
            child.check()
            raise DemoError(f"The site did not answer within {_SITE_START_S:.0f} s; {child.log}.")
        children.drop(child)
    raise AssertionError("unreachable")


def _choose_series(front_end: FrontEnd, series_uids: set[str]) -> list[str]:
    """Choose the sample's series in the network's channel order, by the guessed sequence."""
    ours = [one for one in front_end.list_series() if one["series_uid"] in series_uids]
    by_type = {one["sequence_type"]: one["id"] for one in ours}
    missing = [name for name in CHANNELS if name not in by_type]
    if missing:
        found = ", ".join(f"{one['description']} ({one['sequence_type']})" for one in ours)
        raise DemoError(f"The sample's {', '.join(missing)} was not found among: {found or 'none'}")
    return [by_type[name] for name in CHANNELS]


def _follow(
    front_end: FrontEnd,
    request_id: str,
    options: Options,
    children: Children,
    tell: Callable[[str], None],
) -> tuple[dict[str, Any], float]:
    """Show the request's progress until it is completed; return its status and its seconds."""
    began = time.monotonic()
    body: dict[str, Any] = {}
    with ProgressLine(sys.stdout, tell) as line:
        states = front_end.follow(request_id, timeout_s=options.timeout_s, check=children.check)
        for state in states:
            line.show(state.status, state.stage, state.progress)
            body = dict(state.body)
    if body["status"] != "completed":
        failure = body.get("failure") or {}
        reason = failure.get("message") or "no reason was given"
        raise DemoError(f"The request is {body['status']}: {reason}")
    return body, time.monotonic() - began


def _keep(children: Children) -> None:
    print(said("\nIt stays up. Ctrl-C stops it."), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            children.check()
            time.sleep(1)

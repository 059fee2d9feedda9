"""Checks everything a worker needs, and says what to do about what is not well."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from worker.adapters.http_client import LOOPBACK
from worker.bootstrap import make_runner, make_server
from worker.catalogue import find_model
from worker.core.errors import (
    EXIT_BAD_SETTINGS,
    EXIT_CREDENTIALS_REFUSED,
    EXIT_ENGINE_BROKEN,
    EXIT_OK,
    EXIT_SERVER_UNAVAILABLE,
    ServerUnavailable,
    SettingsError,
    WorkerError,
    WorkerTooOld,
)
from worker.outbox import Outbox
from worker.settings import Settings, find_config, load_settings

_FEW_BYTES = 2_000_000_000


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check: what was found, and what to do about it."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""
    exit_code: int = EXIT_OK

    def to_json(self) -> dict[str, str]:
        """Give it for `--json`."""
        return {key: str(value) for key, value in asdict(self).items() if key != "exit_code"}


def _ok(name: str, found: str) -> Check:
    return Check(name=name, verdict=Verdict.OK, found=found)


def _warn(name: str, found: str, advice: str) -> Check:
    return Check(name=name, verdict=Verdict.WARN, found=found, advice=advice)


def _fail(name: str, found: str, advice: str, exit_code: int) -> Check:
    return Check(name=name, verdict=Verdict.FAIL, found=found, advice=advice, exit_code=exit_code)


def run_checks(config: Path | None) -> Iterator[Check]:
    """Give each check as it is done; without usable settings the later ones are not tried."""
    yield check_python()
    yield check_console()
    try:
        settings = load_settings(config)
    except SettingsError as error:
        for problem in error.problems:
            # A key of the file is named with it, an environment variable alone.
            where = find_config(config)
            is_in_file = problem.startswith(where.name)
            remedy = f"Edit {where}." if is_in_file else "Correct it in the environment."
            yield _fail("settings", problem, remedy, EXIT_BAD_SETTINGS)
        return
    yield _ok("settings", str(settings.config_path))
    yield check_work_folder(settings)
    yield check_outbox(settings)
    yield check_transport(settings)
    yield check_site(settings)
    yield from check_engine(settings)


def exit_code_of(checks: list[Check]) -> int:
    """Give the exit code of the first check that failed."""
    return next((item.exit_code for item in checks if item.verdict is Verdict.FAIL), EXIT_OK)


def check_python() -> Check:
    """Python's version."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return _ok("python", found)


def check_console() -> Check:
    """Whether Korean can be printed here."""
    encoding = (sys.stdout.encoding or "unknown").lower().replace("-", "")
    if encoding == "utf8":
        return _ok("console", "UTF-8")
    advice = "Set PYTHONUTF8=1, or run 'chcp 65001' first on Windows; the log file is UTF-8 anyway."
    return _warn("console", sys.stdout.encoding or "unknown", advice)


def check_work_folder(settings: Settings) -> Check:
    """Whether the work folder can be written and has room."""
    folder = settings.worker.work_dir
    probe = folder / f".doctor-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        advice = "Give this user the right to write there, or change worker.work_dir."
        return _fail("work folder", f"{folder}: {error.strerror}", advice, EXIT_BAD_SETTINGS)
    found = f"{folder}, {free / 1e9:.1f} GB free"
    if free < _FEW_BYTES:
        return _warn("work folder", found, "Free some space: a case needs up to 2 GB.")
    return _ok("work folder", found)


def check_outbox(settings: Settings) -> Check:
    """What is finished and not delivered, or refused."""
    outbox = Outbox(settings.worker.work_dir)
    refused = len(outbox.refused())
    if refused:
        folder = settings.worker.work_dir / "refused"
        return _warn(
            "outbox",
            f"the site refused {refused} result(s)",
            f"Read refused.json in each folder of {folder}; delete the folder once it is settled.",
        )
    waiting = len(outbox.entries()) if (settings.worker.work_dir / "jobs").is_dir() else 0
    return _ok("outbox", f"{waiting} in progress or waiting for delivery")


def check_transport(settings: Settings) -> Check:
    """Whether what travels is protected."""
    parts = urlsplit(settings.server.url)
    if parts.scheme == "https":
        ca = settings.server.ca_file
        return _ok("transport", f"HTTPS, verified by {ca or 'the public authorities'}")
    if parts.hostname in LOOPBACK:
        return _ok("transport", "HTTP on this machine")
    return _warn(
        "transport",
        "HTTP: the token and the images can be read on the way",
        "Use an https:// address in server.url.",
    )


def check_site(settings: Settings) -> Check:
    """Whether the site answers and knows this worker."""
    started = time.monotonic()
    try:
        server = make_server(settings)
        server.check()
        server.check_is_worker()
    except ServerUnavailable as error:
        advice = "Start the site, or set server.url (DJANGO_API_URL)."
        return _fail("site", error.message, advice, EXIT_SERVER_UNAVAILABLE)
    except WorkerTooOld as error:
        return _fail("site", error.message, "Install a newer version.", error.exit_code)
    except WorkerError as error:
        advice = "Let the site's administrator make a worker token, and set WORKER_TOKEN."
        return _fail("site", error.message, advice, EXIT_CREDENTIALS_REFUSED)
    return _ok("site", f"{settings.server.url}, {(time.monotonic() - started) * 1000:.0f} ms")


def check_engine(settings: Settings) -> Iterator[Check]:
    """Whether the child starts, on which device, and whether each model may run."""
    runner = make_runner(settings)
    try:
        started = time.monotonic()
        broken = _try(runner.wait_ready)
        if broken is not None:
            advice = "Look at the log, and check inference.device and the installation."
            is_settings = isinstance(broken, SettingsError)
            code = EXIT_BAD_SETTINGS if is_settings else EXIT_ENGINE_BROKEN
            yield _fail("inference process", broken.message, advice, code)
            return
        seconds = time.monotonic() - started
        yield _ok("inference process", f"{runner.device}, up in {seconds:.1f} s")
        yield _check_device(settings, runner.device)
        name = settings.default_model
        started = time.monotonic()
        broken = _try(lambda: runner.warm(name))
        if broken is None:
            yield _ok("default model", f"{name}, loaded in {time.monotonic() - started:.1f} s")
        else:
            advice = f"Run 'mri-worker models add {name}', or change default_model."
            yield _fail("default model", broken.message, advice, EXIT_BAD_SETTINGS)
        for other in sorted(set(settings.models) - {name}):
            broken = _try(functools.partial(find_model, settings, other))
            if broken is not None:
                advice = f"Run 'mri-worker models add {other}', or take it out of config.yaml."
                yield _warn("model", broken.message, advice)
    finally:
        runner.close()


def _check_device(settings: Settings, device: str) -> Check:
    if device.startswith("cuda") or settings.inference.device == "cpu":
        return _ok("device", device)
    return _warn(
        "device",
        f"{device}: no GPU is used, so a case takes minutes",
        "On a PC with an NVIDIA card install its driver and a CUDA build of torch.",
    )


def _try(action: Callable[[], object]) -> WorkerError | None:
    try:
        action()
    except WorkerError as error:
        return error
    return None

"""Checks everything a worker needs, and says what to do about what is not well."""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from worker import __version__, language
from worker.adapters.http_client import LOOPBACK
from worker.adapters.queue_http import SiteFacts
from worker.bootstrap import make_orthanc, make_runner, make_server
from worker.catalogue import find_model
from worker.core.errors import (
    EXIT_BAD_SETTINGS,
    EXIT_CREDENTIALS_REFUSED,
    EXIT_ENGINE_BROKEN,
    EXIT_OK,
    EXIT_SERVER_UNAVAILABLE,
    PacsCredentialsRefused,
    ServerUnavailable,
    SettingsError,
    WorkerError,
    WorkerTooOld,
)
from worker.outbox import Outbox
from worker.settings import Settings, find_config, load_settings

_FEW_BYTES = 2_000_000_000
_LITTLE_MEMORY_BYTES = 4_000_000_000
# Beyond this a certificate's dates and the times in the log mislead; the queue does not care.
_CLOCK_OFF_S = 60
# The oldest site that keeps the contract this worker speaks.
LEAST_SITE_VERSION = "0.1.0"


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
    language.use(language.choose(settings.log.language))
    yield _ok("settings", str(settings.config_path))
    yield check_work_folder(settings)
    yield check_outbox(settings)
    yield check_transport(settings)
    yield check_memory()
    if settings.inputs.is_direct:
        yield check_pacs(settings)
    site = check_site(settings)
    yield site
    if site.verdict is Verdict.OK:
        yield from check_agreement(settings)
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
    if free < settings.worker.least_free_mb * 1_000_000:
        advice = (
            f"Free some space: below {settings.worker.least_free_mb} MB (worker.least_free_mb) "
            "this worker takes no request."
        )
        return _fail("work folder", found, advice, EXIT_BAD_SETTINGS)
    if free < _FEW_BYTES:
        return _warn("work folder", found, "Free some space: a case needs up to 2 GB.")
    return _ok("work folder", found)


def check_memory(memory: Callable[[], tuple[int, int]] | None = None) -> Check:
    """Whether the computer has the memory that a case takes; `memory` gives total and free."""
    total, free = (memory or _memory)()
    found = f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB of it free"
    if free < _LITTLE_MEMORY_BYTES:
        advice = "Close other programs or add memory: a case of four series takes up to 4 GB."
        return _warn("memory", found, advice)
    return _ok("memory", found)


def _memory() -> tuple[int, int]:
    import psutil

    found = psutil.virtual_memory()
    return int(found.total), int(found.available)


def check_outbox(settings: Settings) -> Check:
    """What is finished and not delivered, or refused."""
    outbox = Outbox(settings.worker.work_dir)
    refused = len(outbox.refused())
    if refused:
        folder = settings.worker.work_dir / "refused"
        return _warn(
            "outbox",
            "the site refused 1 result" if refused == 1 else f"the site refused {refused} results",
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


def check_pacs(settings: Settings) -> Check:
    """Whether the PACS that images come from answers, knows this worker, and is well hidden."""
    url = settings.orthanc.url or ""
    try:
        version = make_orthanc(settings).version()
    except (PacsCredentialsRefused, SettingsError) as error:
        advice = "Set ORTHANC_USER and ORTHANC_PASSWORD as the PACS's administrator gave them."
        return _fail("pacs", error.message, advice, EXIT_CREDENTIALS_REFUSED)
    except WorkerError as error:
        advice = "Start the PACS, correct orthanc.url, or set inputs.from to site."
        return _fail("pacs", error.message, advice, EXIT_SERVER_UNAVAILABLE)
    found = f"Orthanc {version} at {url}: the images carry the patient's name"
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname in LOOPBACK:
        return _ok("pacs", found)
    advice = "Use an https:// address in orthanc.url: names and password can be read on the way."
    return _warn("pacs", found, advice)


def check_agreement(settings: Settings) -> Iterator[Check]:
    """Whether site and worker are of versions, a lane and a time that go together."""
    try:
        facts = make_server(settings).facts()
    except WorkerError as error:
        advice = "Update the site, or look whether a proxy hides /api/mri/segmentation/health/."
        yield _warn("versions", error.message, advice)
        return
    yield _check_versions(facts)
    if facts.lane is not None and facts.lane != settings.worker.lane:
        yield _warn(
            "lane",
            f"the token is for the {facts.lane} lane and the settings say {settings.worker.lane}",
            f"The token decides: set worker.lane to {facts.lane}, or get a token for the "
            f"{settings.worker.lane} lane.",
        )
    elif facts.lane is not None:
        yield _ok("lane", facts.lane)
    yield _check_clock(facts.clock_ahead_s)


def _check_versions(facts: SiteFacts) -> Check:
    least = facts.least_worker_version or ""
    found = f"worker {__version__}, site {facts.version or 'of unknown version'}"
    if _numbers(__version__) < _numbers(least):
        advice = f"Update this worker: the site takes {least} or newer."
        return _fail("versions", found, advice, WorkerTooOld.exit_code)
    if _numbers(facts.version or "") < _numbers(LEAST_SITE_VERSION):
        advice = f"Update the site: this worker needs {LEAST_SITE_VERSION} or newer."
        return _fail("versions", found, advice, EXIT_SERVER_UNAVAILABLE)
    return _ok("versions", found)


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d{1,9}(\.\d{1,9})*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _check_clock(ahead_s: float | None) -> Check:
    if ahead_s is None:
        return _ok("clock", "the site does not say its time")
    if abs(ahead_s) <= _CLOCK_OFF_S:
        return _ok("clock", f"within {_CLOCK_OFF_S} s of the site's")
    word = "ahead of" if ahead_s > 0 else "behind"
    return _warn(
        "clock",
        f"{abs(ahead_s) / 60:.0f} min {word} the site's",
        "Set this machine's date and time, best by a time server: certificates and logs need it.",
    )


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
        yield check_device(settings.inference.device, runner.device, runner.device_report)
        name = settings.default_model
        started = time.monotonic()
        broken = _try(lambda: runner.warm(name))
        if broken is None:
            yield _ok("default model", f"{name}, loaded in {time.monotonic() - started:.1f} s")
        else:
            advice = f"Run 'mri-worker models add {name}', or change default_model."
            yield _fail("default model", broken.message, advice, EXIT_BAD_SETTINGS)
        for further in settings.inference.devices[1:]:
            yield _check_further_device(settings, further)
        for other in sorted(set(settings.models) - {name}):
            broken = _try(functools.partial(find_model, settings, other))
            if broken is not None:
                advice = f"Run 'mri-worker models add {other}', or take it out of config.yaml."
                yield _warn("model", broken.message, advice)
    finally:
        runner.close()


def _check_further_device(settings: Settings, device: str) -> Check:
    """Whether a child starts on a device other than the first."""
    runner = make_runner(settings, device=device)
    try:
        broken = _try(runner.wait_ready)
        if broken is None:
            return check_device(device, runner.device, runner.device_report)
    finally:
        runner.close()
    advice = "Take it out of inference.device (or DEVICE), or see why it is not there."
    return _fail("device", f"{device}: {broken.message}", advice, EXIT_BAD_SETTINGS)


def check_device(
    wanted: str,
    device: str,
    report: Mapping[str, Any],
    *,
    has_card: Callable[[], bool] = lambda: _has_nvidia_card(),
) -> Check:
    """Whether a GPU is used, and where it isn't, whether torch, CUDA or the driver is the reason.

    Parameters
    ----------
    wanted, device : str
        What the settings say, and what the child chose.
    report : mapping
        See `adapters.engine_monai.device_report`.
    has_card : callable
        Whether the system knows an NVIDIA card.
    """
    if device.startswith("cuda"):
        total = float(report.get("memory", {}).get("total", 0))
        found = f"{device}, {total / 1e9:.1f} GB"
        if 0 < total < _LITTLE_MEMORY_BYTES:
            advice = "A larger network may not fit: choose a smaller model, or set DEVICE=cpu."
            return _warn("device", found, advice)
        return _ok("device", found)
    if wanted == "cpu":
        return _ok("device", device)
    built_for, driver = report.get("cuda"), report.get("driver_cuda")
    if built_for is None and has_card():
        return _warn(
            "device",
            f"{device}: torch {report.get('torch', '')} is built without CUDA, so the NVIDIA card "
            "is not used",
            "Install a CUDA build of torch (https://pytorch.org/get-started/locally/).",
        )
    if built_for is not None and driver is None and has_card():
        advice = "Install NVIDIA's driver and restart the computer."
        return _warn("device", f"{device}: there is an NVIDIA card without a driver", advice)
    if built_for is not None and driver is not None:
        return _mismatch(device, str(built_for), str(driver))
    return _warn(
        "device",
        f"{device}: no GPU is used, so a case takes minutes",
        "On a PC with an NVIDIA card install its driver and a CUDA build of torch.",
    )


def _mismatch(device: str, built_for: str, driver: str) -> Check:
    # Within a major version of CUDA older drivers run newer builds.
    if _numbers(driver)[:1] < _numbers(built_for)[:1]:
        return _warn(
            "device",
            f"{device}: the driver knows CUDA {driver} at most and torch is built for {built_for}",
            f"Install a newer NVIDIA driver, or a torch built for CUDA {driver.split('.')[0]}.",
        )
    return _warn(
        "device",
        f"{device}: driver (CUDA {driver}) and torch (CUDA {built_for}) go together, but no card "
        "is visible",
        "Look at CUDA_VISIBLE_DEVICES, and whether nvidia-smi lists the card.",
    )


def _has_nvidia_card() -> bool:
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists()


def _try(action: Callable[[], object]) -> WorkerError | None:
    try:
        action()
    except WorkerError as error:
        return error
    return None

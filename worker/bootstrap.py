"""Puts the parts together: the only place that knows which adapter stands behind which port."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from worker.adapters.case_pool import CasePool
from worker.adapters.case_process import CaseProcess, child_command
from worker.adapters.device_turn import DeviceTurn
from worker.adapters.input_cache import InputCache
from worker.adapters.inputs_http import HttpInputs
from worker.adapters.inputs_orthanc import DirectInputs, OrthancInputs
from worker.adapters.queue_http import HttpQueue, WorkerInfo
from worker.casework import CaseWork
from worker.console import View
from worker.core.errors import ModelInvalid, SettingsError, WorkerError
from worker.daemon import Daemon
from worker.delivery import Courier
from worker.engine_start import EngineStart
from worker.forecast import Forecast
from worker.lockfile import WorkFolderLock
from worker.metrics import Metrics, MetricsServer
from worker.outbox import Outbox
from worker.ports import InputSource
from worker.room import Room, free_bytes
from worker.settings import Settings
from worker.signals import Stop

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Program:
    """A daemon that is ready to run, and what must be given back after it."""

    daemon: Daemon
    runner: CasePool
    lock: WorkFolderLock
    shown: MetricsServer

    def close(self) -> None:
        """End the child and give the port and the work folder back."""
        self.shown.close()
        self.runner.close()
        self.lock.release()


def make_runner(
    settings: Settings,
    command: Sequence[str] | None = None,
    *,
    device: str | None = None,
) -> CaseProcess:
    """Make the owner of one child process; `command` replaces the real child."""
    return CaseProcess(
        command or child_command(settings.config_path, device),
        start_timeout_s=settings.inference.start_timeout_s,
    )


def make_pool(
    settings: Settings, command: Sequence[str] | None, *, on_start: Callable[[], None]
) -> CasePool:
    """Make the owner of all child processes; `command` replaces the real child."""
    inference = settings.inference

    def make(device: str, turn: DeviceTurn) -> CaseProcess:
        return CaseProcess(
            command or child_command(settings.config_path, device),
            start_timeout_s=inference.start_timeout_s,
            on_start=on_start,
            device_turn=turn,
        )

    return CasePool(make, inference.devices, inference.processes_on)


def make_server(settings: Settings) -> HttpQueue:
    """Make the site's client, as it looks before the child has said what it can do."""
    info = WorkerInfo(name=settings.worker.name, device="", models=tuple(settings.models))
    return HttpQueue(settings.server, info)


def make_inputs(settings: Settings, cache: InputCache) -> InputSource:
    """Make what fetches the images of a case.

    Raises
    ------
    SettingsError
        Images come from a PACS whose user has no password.
    """
    downloads = settings.worker.downloads
    site = HttpInputs(settings.server, downloads=downloads, cache=cache)
    if not settings.inputs.is_direct:
        return site
    return DirectInputs(make_orthanc(settings), site)


def make_orthanc(settings: Settings) -> OrthancInputs:
    """Make what fetches images from the PACS.

    Raises
    ------
    SettingsError
        Its user has no password. Not told with the other settings, since the child, which needs
        none, is not given the password and reads the same settings.
    """
    user = settings.orthanc.user
    if user is not None and settings.orthanc.password is None:
        raise SettingsError(f"ORTHANC_PASSWORD: expected the password of {user!r}, got nothing")
    return OrthancInputs(settings.orthanc, settings.server, downloads=settings.worker.downloads)


def make_room(settings: Settings, cache: InputCache) -> Room:
    """Make what looks at the disk before each claim; cached images never stand in the way."""
    least_bytes = settings.worker.least_free_mb * 1_000_000

    def free(folder: Path) -> int:
        cache.make_room(least_bytes)
        return free_bytes(folder)

    return Room(settings.worker.work_dir, least_bytes, free=free)


def usable_models(settings: Settings) -> tuple[str, ...]:
    """Give the models that are there, coded, pinned and unchanged; say why another is not."""
    from worker.catalogue import find_model

    usable = []
    for name in settings.models:
        try:
            find_model(settings, name)
        except WorkerError as error:
            logger.warning("model_not_offered", extra={"model": name, "reason": error.message})
        else:
            usable.append(name)
    return tuple(usable)


def build(
    settings: Settings,
    *,
    stop: Stop,
    view: View,
    command: Sequence[str] | None = None,
    find_usable: Callable[[Settings], tuple[str, ...]] = usable_models,
) -> Program:
    """Wire a daemon, and start its child so that it warms up while the site is looked for.

    Parameters
    ----------
    command : sequence of str, optional
        Started instead of the real child.
    find_usable : callable
        Gives the names of the models to offer.

    Raises
    ------
    SettingsError
        Another worker has the work folder, or a password is missing.
    """
    cache = InputCache(settings.worker.work_dir, settings.cache)
    inputs = make_inputs(settings, cache)
    lock = WorkFolderLock(settings.worker.work_dir)
    lock.acquire()
    cache.open()
    metrics = Metrics()
    shown = MetricsServer(settings.metrics, metrics)
    runner = make_pool(settings, command, on_start=metrics.child_started)
    server = make_server(settings)
    outbox = Outbox(settings.worker.work_dir)
    metrics.watch_outbox(outbox)
    courier = Courier(outbox, server)
    forecast = Forecast(view, prefetch=settings.worker.prefetch, devices=lambda: runner.devices)

    def start_engine() -> None:
        _start_engine(settings, runner, server, stop)
        metrics.device_memory(runner.device_report.get("memory", {}))

    engine = EngineStart(
        start_engine,
        prepare=lambda: _offer(server, find_usable(settings)),
        work_dir=settings.worker.work_dir,
    )
    casework = CaseWork(
        server=server,
        inputs=inputs,
        runner=runner,
        outbox=outbox,
        courier=courier,
        stop=stop,
        view=forecast,
        default_model=settings.default_model,
        stall_s=settings.inference.stall_s,
        work_dir=settings.worker.work_dir,
        is_engine_ready=engine.is_ready,
    )
    daemon = Daemon(
        server=server,
        settings=settings.server,
        outbox=outbox,
        courier=courier,
        casework=casework,
        room=make_room(settings, cache),
        metrics=metrics,
        stop=stop,
        engine=engine,
        forecast=forecast,
        on_idle=cache.tidy,
    )
    runner.start()
    return Program(daemon=daemon, runner=runner, lock=lock, shown=shown)


def _offer(server: HttpQueue, usable: tuple[str, ...]) -> None:
    """Let the site know which models this worker may run."""
    if not usable:
        raise ModelInvalid(
            "No model may be run on this machine yet: see 'mri-worker models list', then run "
            "'mri-worker models add NAME'."
        )
    server.worker = replace(server.worker, models=usable)


def _start_engine(settings: Settings, runner: CasePool, server: HttpQueue, stop: Stop) -> None:
    """Wait for the children, and let the site know what they run on."""
    runner.wait_ready(give_up=stop.is_asked)
    if stop.is_asked():
        return
    server.worker = replace(server.worker, device=runner.device)
    fields = {
        "worker": settings.worker.name,
        "lane": settings.worker.lane,
        "device": runner.device,
        "models": ",".join(server.worker.models),
    }
    logger.info("engine_ready", extra=fields)
    _tell_lane(settings, server)
    if settings.inference.is_warm_at_start and settings.default_model in server.worker.models:
        runner.keep_warm(settings.default_model)


def _tell_lane(settings: Settings, server: HttpQueue) -> None:
    """Say plainly where the token is for another lane than the settings: the token decides."""
    try:
        lane = server.facts().lane
    except WorkerError:
        return
    if lane is not None and lane != settings.worker.lane:
        logger.warning("lane_mismatch", extra={"token": lane, "settings": settings.worker.lane})

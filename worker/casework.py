"""One job from its claim to its end: download, segment, keep, deliver; and what an error means."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from worker.console import View
from worker.core.errors import (
    Cancelled,
    DiskFull,
    EngineBroken,
    EngineNotStarting,
    LeaseLost,
    ServerUnavailable,
    SettingsError,
    WorkerError,
)
from worker.core.job import Case, CaseResult, Job, SeriesFiles
from worker.delivery import Courier, Delivered, deliver
from worker.durable import file_sha256, told_plainly, write_json
from worker.heartbeat import Drained, Watch
from worker.log import about
from worker.outbox import Entry, Failure, Finished, Outbox
from worker.ports import CaseRunner, InputSource, QueueServer
from worker.signals import Stop

logger = logging.getLogger(__name__)

# How often a case that waits for the first child looks for it.
_LOOK_S = 0.1


class Ending(StrEnum):
    """How a job ended on this worker."""

    COMPLETED = "completed"
    FAILED = "failed"
    DROPPED = "dropped"
    RELEASED = "released"


@dataclass(frozen=True, kw_only=True)
class Done:
    """A job's end; `error` where there was one, `result` where there was one."""

    request_id: str
    ending: Ending
    error: WorkerError | None = None
    result: CaseResult | None = None
    delivery: Delivered | None = None


class CaseWork:
    """Works on jobs; on several at a time where it is called from several threads.

    Parameters
    ----------
    is_engine_ready : callable
        Tells whether the first child is up; until then a case waits with its images.
    """

    def __init__(
        self,
        *,
        server: QueueServer,
        inputs: InputSource,
        runner: CaseRunner,
        outbox: Outbox,
        courier: Courier,
        stop: Stop,
        view: View,
        default_model: str,
        stall_s: float,
        work_dir: Path,
        is_engine_ready: Callable[[], bool] = lambda: True,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._inputs = inputs
        self._runner = runner
        self._outbox = outbox
        self._courier = courier
        self._stop = stop
        self._view = view
        self._default_model = default_model
        self._stall_s = stall_s
        self._broken = _BrokenBefore(work_dir)
        self._is_engine_ready = is_engine_ready
        self._is_given_up = False
        self._now = now

    def give_up(self) -> None:
        """Give back every job in work that has no result yet: the program must end."""
        self._is_given_up = True

    def work(self, entry: Entry, job: Job) -> Done:
        """Do one job whole, and let each line of the log say which.

        Raises
        ------
        WorkerError
            See `_do`.
        """
        with about(request_id=job.request_id, attempt=job.attempt):
            fields = {"request_id": job.request_id, "attempt": job.attempt}
            logger.info("case_started", extra={**fields, "series": len(job.series)})
            return self._do(entry, job)

    def _do(self, entry: Entry, job: Job) -> Done:
        """Do one job whole.

        Raises
        ------
        EngineBroken
            The device failed twice in a row, or the child does not start: the job is given back
            or failed, and the program must be started again.
        SettingsError
            After the job was given back: the child, started anew, finds mistakes in config.yaml.
        """
        watch = Watch(
            self._server,
            job,
            stall_s=self._stall_s,
            on_verdict=lambda: self._runner.interrupt(entry.outputs_dir),
            is_drained=lambda: self._is_given_up or self._stop.is_over(),
            now=self._now,
        )
        watch.start()
        try:
            return self._work(entry, job, watch)
        except (Cancelled, LeaseLost) as error:
            logger.info("job_dropped", extra={"request_id": job.request_id, "reason": error.code})
            self._outbox.drop(entry)
            return Done(request_id=job.request_id, ending=Ending.DROPPED, error=error)
        except Drained as error:
            return self.give_back(entry, job, error)
        except EngineBroken as error:
            return self._device_failed(entry, job, error)
        except SettingsError as error:
            # This machine is set up wrongly; the case is as good as before.
            self.give_back(entry, job, error)
            raise
        except WorkerError as error:
            return self._fail(entry, job, error)
        except Exception as error:
            logger.exception("job_failed_unexpectedly", extra={"request_id": job.request_id})
            sentence = f"The worker failed unexpectedly ({type(error).__name__}); see its log."
            return self._fail(entry, job, WorkerError(sentence, code="unexpected"))
        finally:
            watch.stop()
            self._view.done(job.request_id)
            if not self._stop.is_asked():
                # Where the case took its child along, the next one warms up while we wait.
                self._runner.start()

    def _work(self, entry: Entry, job: Job, watch: Watch) -> Done:
        started = self._now()
        try:
            with told_plainly(entry.folder):
                finished = self._segment(entry, job, watch)
        except WorkerError as error:
            # A killed child looks crashed and a stopped download cancelled: the verdict knows why.
            if watch.verdict is not None:
                raise watch.verdict from error
            raise
        self._broken.forget()
        segmented = self._now()
        outcome = self._deliver(entry, finished, watch)
        seconds = {"upload_s": self._now() - segmented, "total_s": self._now() - started}
        _log_summary(job, finished.result, outcome, seconds)
        return Done(
            request_id=job.request_id,
            ending=Ending.COMPLETED,
            result=finished.result,
            delivery=outcome,
        )

    def _segment(self, entry: Entry, job: Job, watch: Watch) -> Finished:
        started = self._now()
        files = self._inputs.download(
            job,
            entry.inputs_dir,
            on_progress=lambda fraction: self._moved(job, watch, "downloading", fraction),
            is_cancelled=watch.is_over,
        )
        download_s = self._now() - started
        entry.outputs_dir.mkdir(exist_ok=True)
        case = Case(
            request_id=job.request_id,
            series=tuple(
                SeriesFiles(series_id=item.series_id, files=files[item.series_id])
                for item in job.series
            ),
            main_series_id=job.main_series_id,
            order=job.order,
            model=job.model or self._default_model,
            output_dir=entry.outputs_dir,
        )
        self._wait_for_engine(watch)
        result = self._runner.run(
            case,
            on_progress=lambda stage, fraction: self._moved(job, watch, stage, fraction),
            on_wait=lambda: _wait(watch),
        )
        watch.finished()
        return self._keep(entry, job, result, download_s)

    def _wait_for_engine(self, watch: Watch) -> None:
        watch.check()
        while not self._is_engine_ready():
            _wait(watch)
            time.sleep(_LOOK_S)

    def _keep(self, entry: Entry, job: Job, result: CaseResult, download_s: float) -> Finished:
        timings = {"downloading": round(download_s, 3), **result.timings}
        finished = Finished(
            request_id=job.request_id,
            result=replace(result, timings=timings),
            artifacts={
                name: file_sha256(entry.outputs_dir / name).hex() for name in result.artifacts
            },
        )
        self._outbox.finish(entry, finished)
        return finished

    def _deliver(self, entry: Entry, finished: Finished, watch: Watch) -> Delivered:
        request_id = finished.request_id

        def report(fraction: float) -> None:
            if self._stop.is_over():
                raise ServerUnavailable("The worker is ending; it delivers after its next start.")
            watch.moved("uploading", fraction)
            self._view.stage(request_id, "uploading", fraction)

        outcome = deliver(self._outbox, self._server, entry, finished, on_progress=report)
        if outcome is Delivered.KEPT:
            self._courier.take(entry, has_failed=True)
        return outcome

    def _moved(self, job: Job, watch: Watch, stage: str, fraction: float) -> None:
        watch.check()
        watch.moved(stage, fraction)
        self._view.stage(job.request_id, stage, fraction)

    def _fail(self, entry: Entry, job: Job, error: WorkerError) -> Done:
        fields = {
            "request_id": job.request_id,
            "attempt": job.attempt,
            "code": error.code,
            "retryable": error.is_retryable,
            "reason": error.message,
        }
        logger.error("case_failed", extra=fields)
        failure = Failure.of(job.request_id, error)
        try:
            self._outbox.fail(entry, failure)
        except DiskFull as full:
            # Told from memory now, or as a restart's after the next start.
            logger.error("disk_full", extra={"reason": full.message})  # noqa: TRY400
        if deliver(self._outbox, self._server, entry, failure) is Delivered.KEPT:
            self._courier.take(entry, has_failed=True)
        return Done(request_id=job.request_id, ending=Ending.FAILED, error=error)

    def give_back(self, entry: Entry, job: Job, error: WorkerError) -> Done:
        """Release a job unharmed: nothing is wrong with it."""
        try:
            self._server.release(job.request_id, entry.lease_id)
        except WorkerError as refusal:
            # Its lease runs out by itself; kept, the next start would count it as an attempt.
            logger.warning(
                "release_failed", extra={"request_id": job.request_id, "reason": refusal.message}
            )
        else:
            logger.info("job_released", extra={"request_id": job.request_id, "reason": error.code})
        self._outbox.drop(entry)
        return Done(request_id=job.request_id, ending=Ending.RELEASED, error=error)

    def _device_failed(self, entry: Entry, job: Job, error: EngineBroken) -> Done:
        """Fail the attempt, and give the device a fresh child; then give up on the device.

        One fault may be the case's own, such as an index out of range on the GPU, and a new process
        mends it. A second in a row without a mask in between is the device's: then the program ends
        to be started again, and a request that met it for the first time is given back unharmed.
        Released for ever, a case that breaks the device would take one worker after the other down
        (CONTRACT 2.3: a job that crashes its worker three times fails).
        """
        has_started = not isinstance(error, EngineNotStarting)
        is_first = has_started and not self._broken.is_suspect()
        if self._broken.note(job.request_id) or is_first:
            done = self._fail(entry, job, error)
        else:
            done = self.give_back(entry, job, error)
        if is_first:
            return done
        raise error


def _wait(watch: Watch) -> None:
    """Stand in line; raises where the job is to end."""
    watch.waits()
    watch.check()


class _BrokenBefore:
    """Which requests met a broken device since the last mask, over restarts."""

    _KEPT = 50

    def __init__(self, work_dir: Path) -> None:
        self._path = work_dir / "engine_broken.json"

    def is_suspect(self) -> bool:
        """Tell whether the device failed and no mask has come since."""
        return bool(self._requests())

    def note(self, request_id: str) -> bool:
        """Note a request and tell whether it was there already."""
        known = self._requests()
        kept = [item for item in known if item != request_id][-self._KEPT :]
        with suppress(DiskFull):
            write_json(self._path, {"requests": [*kept, request_id]})
        return request_id in known

    def forget(self) -> None:
        """Trust the device again: it has given a mask."""
        self._path.unlink(missing_ok=True)

    def _requests(self) -> list[str]:
        try:
            return list(json.loads(self._path.read_text(encoding="utf-8"))["requests"])
        except (OSError, ValueError, KeyError, TypeError):
            return []


def _log_summary(
    job: Job, result: CaseResult, outcome: Delivered, seconds: dict[str, float]
) -> None:
    timings = {f"{stage}_s": value for stage, value in result.timings.items()}
    fields = {
        "request_id": job.request_id,
        "attempt": job.attempt,
        "model": f"{result.model.name}:{result.model.version}",
        "segments": sum(1 for segment in result.segments if segment.voxels),
        "tumor_ml": float(result.tumor_volume_ml),
        "warnings": len(result.warnings),
        "delivery": outcome.value,
        **timings,
        **seconds,
    }
    logger.info("case_finished", extra=fields)

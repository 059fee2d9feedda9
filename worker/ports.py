"""What the worker needs from the world, as protocols: a site, an engine, a clock.

Adapters implement these; the tests' fakes do too, and pass the same contract tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from worker.core.job import Case, CaseResult, Job

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from worker.catalogue import ModelEntry
    from worker.core.segments import Labels

    FloatArray = NDArray[np.floating[Any]]

OnProgress = Callable[[str, float], None]
"""Called with a stage (`core.job.STAGES`) and how much of that stage is done, 0 to 1."""

OnFraction = Callable[[float], None]
OnWait = Callable[[], None]
"""Called a few times a second while a case stands in line; raises to leave the line."""
IsCancelled = Callable[[], bool]


def no_wait() -> None:
    """Stand in line for as long as it takes (`OnWait`)."""


class Engine(Protocol):
    """Runs networks on one device. Lives in the child process only."""

    @property
    def device(self) -> str:
        """The device in torch's words, such as ``cuda:0`` or ``cpu``."""
        ...

    def load(self, model: ModelEntry) -> None:
        """Bring a model into memory; a second call for the same one costs nothing."""
        ...

    def leave_device(self) -> None:
        """Give other processes of the same device the memory that is held in reserve."""
        ...

    def segment(
        self,
        model: ModelEntry,
        channels: FloatArray,
        affine_ras: FloatArray,
        on_progress: OnFraction,
    ) -> Labels:
        """Segment one case.

        Parameters
        ----------
        model : ModelEntry
            From the catalogue, already checked against its pin.
        channels : (C, I, J, K) float32
            In the model's channel order; axes column, row, slice.
        affine_ras : (4, 4) float64
            Voxel index (i, j, k) -> RAS, mm.
        on_progress : callable
            Called with 0 to 1 while the network runs.

        Returns
        -------
        Labels
            On the same grid as `channels`.
        """
        ...


class QueueServer(Protocol):
    """The site's worker calls (CONTRACT 2.2). Every method raises the errors of `core.errors`."""

    def claim(self, lease_id: str, *, wait_s: float) -> Claim:
        """Ask for work; the same `lease_id` again replays a lost answer."""
        ...

    def heartbeat(self, request_id: str, lease_id: str, *, stage: str, progress: float) -> float:
        """Renew the lease and give the seconds it is good for now."""
        ...

    def upload_artifact(
        self, request_id: str, lease_id: str, path: Path, *, on_progress: OnFraction | None = None
    ) -> str:
        """Send one file and give its SHA-256 in hexadecimal."""
        ...

    def complete(
        self, request_id: str, lease_id: str, result: CaseResult, artifacts: Mapping[str, str]
    ) -> str:
        """Deliver a result: ``accepted``, ``replay`` or ``superseded``."""
        ...

    def fail(
        self, request_id: str, lease_id: str, *, code: str, message: str, is_retryable: bool
    ) -> None:
        """Report that this attempt failed."""
        ...

    def release(self, request_id: str, lease_id: str) -> None:
        """Give the request back unharmed."""
        ...


class Claim(Protocol):
    """The answer to a claim: a job, or none and how long to wait before asking again."""

    @property
    def job(self) -> Job | None:
        """What was granted."""
        ...

    @property
    def retry_after_s(self) -> float:
        """Seconds that the site asks us to wait when there is no job."""
        ...


class InputSource(Protocol):
    """Where the images of a job come from."""

    def download(
        self, job: Job, target_dir: Path, *, on_progress: OnFraction, is_cancelled: IsCancelled
    ) -> Mapping[str, tuple[Path, ...]]:
        """Fetch every instance whole into ``<target_dir>/<series>/<instance>.dcm``.

        Returns
        -------
        mapping of str to tuple of Path
            The files of each series id, in the manifest's order.
        """
        ...


class CaseRunner(Protocol):
    """Segments cases somewhere that can be killed; several at once where it has the room."""

    @property
    def device(self) -> str:
        """The device the child said it uses, or empty before it is ready."""
        ...

    def start(self) -> None:
        """Start the child where none is alive, without waiting for it."""
        ...

    def run(self, case: Case, *, on_progress: OnProgress, on_wait: OnWait = no_wait) -> CaseResult:
        """Segment a case and wait for its end; safe from several threads at once."""
        ...

    def interrupt(self, output_dir: Path) -> None:
        """End the case that writes into a folder, with its child, at once; safe from any thread."""
        ...

    def close(self) -> None:
        """Let an idle child end; kill it if it does not."""
        ...


class Clock(Protocol):
    """Time that only goes forward, and waiting that can be cut short."""

    def now(self) -> float:
        """Seconds, monotonic."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait; return early when the program is asked to stop."""
        ...

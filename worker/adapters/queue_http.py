"""The worker calls of the site (CONTRACT 2.2) over HTTP."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker import __version__
from worker.adapters.http_client import HttpClient, raise_for_status, read_json, retry_after_s
from worker.core.errors import Cancelled, LeaseLost, ResultRefused, ServerUnavailable
from worker.core.job import CaseResult, Job
from worker.durable import file_sha256
from worker.language import in_korean
from worker.ports import OnFraction
from worker.settings import ServerSettings

# How much longer than the asked wait an answer may take before the connection counts as dead.
_WAIT_MARGIN_S = 10
_CHUNK_BYTES = 1 << 18
OUTCOMES = ("accepted", "replay", "superseded")
_NO_ID = "00000000-0000-4000-8000-000000000000"
_CONTENT_TYPES = {
    ".dcm": "application/dicom",
    ".gz": "application/gzip",
    ".png": "image/png",
    ".json": "application/json",
}


@dataclass(frozen=True, kw_only=True)
class WorkerInfo:
    """What the site is told about this worker with each claim."""

    name: str
    device: str
    models: tuple[str, ...]
    version: str = __version__

    def to_json(self) -> dict[str, Any]:
        """Give the `worker` of a claim."""
        return {
            "name": self.name,
            "version": self.version,
            "device": self.device,
            "models": list(self.models),
        }


@dataclass(frozen=True, kw_only=True)
class ClaimAnswer:
    """A job, or none and how long to wait before asking again."""

    job: Job | None
    retry_after_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SiteFacts:
    """What the site says of itself and of this worker's token; None where it does not say."""

    version: str | None
    least_worker_version: str | None
    lane: str | None
    clock_ahead_s: float | None


class HttpQueue:
    """`ports.QueueServer` over HTTP."""

    def __init__(self, settings: ServerSettings, worker: WorkerInfo) -> None:
        self._client = HttpClient(settings)
        self.worker = worker

    def check(self) -> None:
        """Make a call that changes nothing, to learn whether the site and the token are good."""
        try:
            self._client.call_json("GET", "pending-requests/?all=1")
        except ResultRefused as error:
            # Something answers under this address, such as another web server.
            raise ServerUnavailable(
                f"{self._client.settings.url} answers, but not as the segmentation site "
                f"({error.code}): check server.url (DJANGO_API_URL), and any proxy in between."
            ) from error

    def facts(self) -> SiteFacts:
        """Ask the site what it is."""
        body = self._client.call_json("GET", "health/")
        return SiteFacts(
            version=body.get("version"),
            least_worker_version=body.get("least_worker_version"),
            lane=body.get("lane"),
            clock_ahead_s=self._client.clock_ahead_s,
        )

    def check_is_worker(self) -> None:
        """Make a call that is a worker's alone and changes nothing: a user's token is refused."""
        try:
            self.release(_NO_ID, _NO_ID)
        except ResultRefused:
            return  # the site knows us and has no such request

    def claim(self, lease_id: str, *, wait_s: float) -> ClaimAnswer:
        """Ask for work; the same `lease_id` again replays a lost answer."""
        response = self._client.call(
            "POST",
            "pending-requests/claim/",
            read_timeout_s=wait_s + min(_WAIT_MARGIN_S, self._client.settings.read_timeout_s),
            headers={"Idempotency-Key": lease_id, "Prefer": f"wait={int(wait_s)}"},
            json={"worker": self.worker.to_json()},
        )
        raise_for_status(response)
        if response.status_code == 204:
            return ClaimAnswer(job=None, retry_after_s=retry_after_s(response, default=0.0) or 0.0)
        body = read_json(response)
        try:
            return ClaimAnswer(job=Job.from_json(body))
        except (KeyError, TypeError, ValueError) as error:
            raise ServerUnavailable(
                f"The site granted a request in words this worker {__version__} does not "
                f"understand ({type(error).__name__}: {error}); are the two of the same version?"
            ) from error

    def heartbeat(self, request_id: str, lease_id: str, *, stage: str, progress: float) -> float:
        """Renew the lease and give the seconds it is good for now."""
        body = self._client.call_json(
            "POST",
            f"requests/{request_id}/heartbeat/",
            headers=_lease(lease_id),
            # A beat that hangs for longer than the pause between two is of no use.
            read_timeout_s=min(20, self._client.settings.read_timeout_s),
            json={"stage": stage, "progress": round(progress, 4)},
        )
        return float(body.get("expires_in", 0))

    def upload_artifact(
        self, request_id: str, lease_id: str, path: Path, *, on_progress: OnFraction | None = None
    ) -> str:
        """Send one file and give its SHA-256 in hexadecimal."""
        digest = file_sha256(path)
        encoded = base64.b64encode(digest).decode("ascii")
        suffix = path.suffix.lower()
        self._client.call_json(
            "PUT",
            f"requests/{request_id}/artifacts/{path.name}",
            headers={
                **_lease(lease_id),
                "Content-Digest": f"sha-256=:{encoded}:",
                "Content-Type": _CONTENT_TYPES.get(suffix, "application/octet-stream"),
            },
            body_bytes=path.stat().st_size,
            data=_FileBody(path, on_progress),
        )
        return digest.hex()

    def complete(
        self, request_id: str, lease_id: str, result: CaseResult, artifacts: Mapping[str, str]
    ) -> str:
        """Deliver a result: ``accepted``, ``replay`` or ``superseded``."""
        body = self._client.call_json(
            "POST",
            f"complete-request/{request_id}/",
            headers=_lease(lease_id),
            # The site re-identifies the mask and stores it before it answers.
            read_timeout_s=max(120.0, self._client.settings.read_timeout_s),
            json={"success": True, "result": _in_two(result), "artifacts": dict(artifacts)},
        )
        outcome = body.get("outcome")
        if outcome not in OUTCOMES:
            # The mask is deleted after this, so nothing but the site's own words will do.
            raise ServerUnavailable(
                f"The site did not say what became of the result ({outcome!r}); it is kept."
            )
        return str(outcome)

    def fail(
        self, request_id: str, lease_id: str, *, code: str, message: str, is_retryable: bool
    ) -> None:
        """Report that this attempt failed."""
        failure: dict[str, Any] = {"code": code, "message": message, "retryable": is_retryable}
        if (korean := in_korean(message)) != message:
            failure["message_ko"] = korean
        self._client.call_json(
            "POST",
            f"complete-request/{request_id}/",
            headers=_lease(lease_id),
            json={"success": False, "failure": failure},
        )

    def release(self, request_id: str, lease_id: str) -> None:
        """Give the request back unharmed; one that is not ours any more is given back already."""
        try:
            self._client.call_json(
                "POST", f"requests/{request_id}/release/", headers=_lease(lease_id), json={}
            )
        except (Cancelled, LeaseLost):
            return


def _in_two(result: CaseResult) -> dict[str, Any]:
    """Give a result with its warnings in both languages of the page."""
    return result.to_json() | {"warnings_ko": [in_korean(text) for text in result.warnings]}


def _lease(lease_id: str) -> dict[str, str]:
    return {"If-Match": f'"{lease_id}"'}


class _FileBody:
    """A body that is read from disk as it is sent, with its length known beforehand."""

    def __init__(self, path: Path, on_progress: OnFraction | None) -> None:
        self._path = path
        self._size = path.stat().st_size
        self._on_progress = on_progress

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        sent = 0
        with self._path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
                sent += len(chunk)
                if self._on_progress is not None:
                    self._on_progress(sent / self._size)

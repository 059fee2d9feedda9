"""A worker reduced to its calls (CONTRACT 2.2) and to little CPU, so that many fit in a process."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any
from uuid import uuid4

from benchmarks.queue_set_up import TEMPLATE_UID

API = "/api/mri/segmentation"
RESULT: dict[str, Any] = {
    "tumor_detected": True,
    "tumor_volume_voxels": 12,
    "tumor_volume_ml": 0.012,
    "segments": [],
    "elapsed_time_seconds": 1.5,
    "total_slices": 3,
    "start_slice_index": 1,
    "end_slice_index": 1,
    "model": {"name": "demo", "version": "1", "sha256": "0" * 64},
    "warnings": [],
}


class Refused(Exception):
    """The site answered what a worker can't go on with."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Status and body of a call."""

    status: int
    body: bytes

    def json(self) -> dict[str, Any]:
        """Return the body as what it says."""
        read: dict[str, Any] = json.loads(self.body)
        return read


class Caller:
    """One connection that is kept, with one token."""

    def __init__(self, port: int, secret: str) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=120)
        self._headers = {"Authorization": f"Bearer {secret}"}

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Make a call; once more on a connection that the server closed while it was idle."""
        data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        sent = {**self._headers, "Content-Type": kind, **(headers or {})}
        try:
            return self._call(method, path, data, sent)
        except (HTTPException, ConnectionError):
            self._connection.close()
            return self._call(method, path, data, sent)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _call(self, method: str, path: str, data: bytes, headers: Mapping[str, str]) -> Answer:
        payload = None if method == "GET" else data
        self._connection.request(method, API + path, body=payload, headers=dict(headers))
        answer = self._connection.getresponse()
        return Answer(status=answer.status, body=answer.read())


class LightWorker:
    """Claims, beats, delivers and completes, as the worker program does, without its imaging."""

    def __init__(self, port: int, secret: str, name: str, masks: Mapping[str, bytes]) -> None:
        self.caller = Caller(port, secret)
        self._about = {"name": name, "version": "1.0", "device": "cpu", "models": ["demo"]}
        self._masks = masks
        self._random = random.SystemRandom()  # a fork has its parent's other numbers

    def claim(self, *, wait_s: int = 0) -> dict[str, Any] | None:
        """Return a job, or None."""
        answer = self.caller.call(
            "POST",
            "/pending-requests/claim/",
            {"worker": self._about},
            {"Idempotency-Key": str(uuid4()), "Prefer": f"wait={wait_s}"},
        )
        if answer.status == 204:
            return None
        return _checked(answer, 200).json()

    def beat(self, job: Mapping[str, Any], *, stage: str = "inferring") -> None:
        """Renew the lease."""
        path = f"/requests/{job['request_id']}/heartbeat/"
        body = {"stage": stage, "progress": 0.5}
        _checked(self.caller.call("POST", path, body, _lease(job)), 200)

    def fetch(self, job: Mapping[str, Any]) -> int:
        """Download the inputs, several in one answer as the worker does; return the bytes."""
        size = 0
        for series in job["manifest"]:
            ids = [item["id"] for item in series["instances"]]
            for start in range(0, len(ids), job["instances_at_once"]):
                body = {"instance_ids": ids[start : start + job["instances_at_once"]]}
                path = f"/requests/{job['request_id']}/instances/"
                size += len(_checked(self.caller.call("POST", path, body), 200).body)
        return size

    def deliver(self, job: Mapping[str, Any]) -> str:
        """Upload the mask and complete; return what the site made of it."""
        mask = self._mask(job["main_series_id"])
        self.upload(job, "mask.dcm", mask)
        return self.complete(job, {"mask.dcm": hashlib.sha256(mask).hexdigest()})

    def upload(self, job: Mapping[str, Any], name: str, data: bytes) -> None:
        """Deliver one file."""
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        headers = {**_lease(job), "Content-Digest": f"sha-256=:{digest}:"}
        path = f"/requests/{job['request_id']}/artifacts/{name}"
        _checked(self.caller.call("PUT", path, data, headers), 200, 201)

    def complete(self, job: Mapping[str, Any], digests: Mapping[str, str]) -> str:
        """Deliver the result; return the outcome."""
        body = {"success": True, "result": RESULT, "artifacts": digests}
        path = f"/complete-request/{job['request_id']}/"
        outcome = _checked(self.caller.call("POST", path, body, _lease(job)), 200).json()
        return str(outcome["outcome"])

    def give_up(self, job: Mapping[str, Any]) -> None:
        """End a job as failed for good: the cheapest end there is."""
        failure = {"code": "benchmark", "message": "Not meant to be done.", "retryable": False}
        path = f"/complete-request/{job['request_id']}/"
        body = {"success": False, "failure": failure}
        _checked(self.caller.call("POST", path, body, _lease(job)), 200)

    def _mask(self, series_id: str) -> bytes:
        """Return a SEG that no other job has."""
        uid = "2.25." + str(self._random.randrange(10**37, 10**38))
        return self._masks[series_id].replace(TEMPLATE_UID.encode(), uid.encode())


def _lease(job: Mapping[str, Any]) -> dict[str, str]:
    return {"If-Match": f'"{job["lease"]["id"]}"'}


def _checked(answer: Answer, *expected: int) -> Answer:
    if answer.status not in expected:
        raise Refused(f"{answer.status}: {answer.body[:500]!r}")
    return answer

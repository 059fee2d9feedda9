"""A queue to play with: tokens, a clock that only moves when told, and short names for calls."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django_queue_app import legacy, services, tokens
from django_queue_app.legacy import LegacyReport
from django_queue_app.models import ApiToken, Attempt, SegmentationRequest

RESULT = {"tumor_detected": True, "tumor_volume_voxels": 7, "elapsed_time_seconds": 1.5}


def make_series_id(number: int) -> str:
    return "-".join([f"{number:08x}"] * 5)


@dataclass
class Queue:
    """The services with the test's clock."""

    now: datetime = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def token(self, name: str = "", lane: str = "lab") -> ApiToken:
        name = name or f"worker-{next(self._numbers)}"
        return tokens.create(name=name, kind="worker", lane=lane, now=self.now)[0]

    def file(self, **changed: Any) -> SegmentationRequest:
        return self.filed(**changed).request

    def filed(self, **changed: Any) -> services.Filed:
        self.pass_time(0.001)  # no two at the same moment: then the id would decide the order
        main = changed.pop("main_series_id", "") or make_series_id(next(self._numbers))
        values = {
            "main_series_id": main,
            "series_ids": [main],
            "lane": "lab",
            "requested_by": "doctor",
            **changed,
        }
        return services.file_request(**values, now=self.now)

    def claim(
        self, token: ApiToken, lease_id: UUID | None = None, models: tuple[str, ...] = ()
    ) -> SegmentationRequest | None:
        worker = services.WorkerInfo(name=token.name, version="1.0", device="cpu", models=models)
        return services.claim(
            token=token, lease_id=lease_id or uuid.uuid4(), worker=worker, now=self.now
        )

    def take(self, token: ApiToken, **options: Any) -> Job:
        request = self.claim(token, **options)
        assert request is not None
        assert request.lease_id is not None
        return Job(queue=self, token=token, request_id=request.pk, lease_id=request.lease_id)

    def read(self, request_id: UUID) -> SegmentationRequest:
        return SegmentationRequest.objects.get(pk=request_id)

    # --- existing workers
    def offer(self, token: ApiToken) -> SegmentationRequest | None:
        return legacy.offer(token=token, now=self.now)

    def start(self, token: ApiToken, request_id: UUID) -> SegmentationRequest:
        return legacy.start(token=token, request_id=request_id, now=self.now)

    def finish(
        self, token: ApiToken, request_id: UUID, *, is_success: bool = True, seg: str = "seg-1"
    ) -> str:
        report = LegacyReport(
            is_success=is_success,
            result=RESULT if is_success else {},
            seg_instance_id=seg if is_success else "",
            error="" if is_success else "CUDA out of memory",
        )
        return legacy.finish(token=token, request_id=request_id, report=report, now=self.now)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A granted request and what its worker may say."""

    queue: Queue
    token: ApiToken
    request_id: UUID
    lease_id: UUID

    @property
    def _who(self) -> dict[str, Any]:
        return {
            "request_id": self.request_id,
            "lease_id": self.lease_id,
            "token": self.token,
            "now": self.queue.now,
        }

    @property
    def request(self) -> SegmentationRequest:
        return self.queue.read(self.request_id)

    @property
    def attempt(self) -> Attempt:
        return Attempt.objects.get(lease_id=self.lease_id)

    def beat(self, stage: str = "inferring", progress: float = 0.5) -> float:
        return services.heartbeat(**self._who, stage=stage, progress=progress)

    def upload(self, name: str = "mask.dcm", digest: str = "ab" * 32) -> tuple[Any, bool]:
        return services.record_artifact(
            **self._who, name=name, sha256=digest, size_bytes=3, storage_name=f"x/{digest}"
        )

    def complete(self, **changed: Any) -> str:
        values = {"result": RESULT, "artifacts": {}, **changed}
        return services.complete(**self._who, **values)

    def fail(self, *, is_retryable: bool = True, code: str = "out_of_memory") -> None:
        services.fail(**self._who, code=code, message="It broke.", is_retryable=is_retryable)

    def release(self) -> None:
        services.release(**self._who)

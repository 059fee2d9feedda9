"""A queue as it looks after some days of work: requests in every state, workers, failures."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.contrib.auth import get_user_model
from django.utils import timezone

from django_queue_app import tokens
from django_queue_app.models import ApiToken, Attempt, SegmentationRequest, Worker, fingerprint_of

MODEL = "brats_mri_segmentation"
FAILURES = (
    ("missing_slices", "Slices are missing between MR000031.dcm and MR000033.dcm: send all."),
    ("out_of_memory", "The network needs more memory than cuda:0 has; set DEVICE=cpu."),
    ("lease_expired", "The worker was not heard of for 90 s."),
)


def fill(series: Sequence[str] = (), *, ended: int = 50, now: datetime | None = None) -> None:
    """Fill the database: `ended` requests of the last days, and some that are under way.

    Parameters
    ----------
    series : sequence of str
        Ids of series that the requests are for, in turn; made up ones where there are none.
    """
    now = now or timezone.now()
    filler = _Filler(now, list(series) or [make_series_id(number) for number in range(7)])
    for number in range(ended):
        filler.ended(number)
    filler.under_way()


def make_series_id(number: int) -> str:
    return "-".join([f"{0xABC0 + number:08x}"] * 5)


class _Filler:
    def __init__(self, now: datetime, series: list[str]) -> None:
        self.now, self.series = now, series
        self.user = get_user_model().objects.filter(is_superuser=False).first()
        self.lab = self._worker("lab-pc-1", "lab", "cuda:0", seconds_ago=4)
        self._worker("lab-pc-2", "lab", "cpu", seconds_ago=86_400 * 2)
        self._worker("cloud-1", "cloud", "cpu", seconds_ago=12)

    def _worker(self, name: str, lane: str, device: str, *, seconds_ago: float) -> Worker:
        token = tokens.create(name=name, kind="worker", lane=lane, now=self.now)[0]
        seen = self.now - timedelta(seconds=seconds_ago)
        return Worker.objects.create(
            token=token,
            name=name,
            lane=lane,
            version="0.1.0",
            device=device,
            models_offered=["demo", MODEL],
            last_seen_at=seen,
        )

    def _request(self, number: int, **values: object) -> SegmentationRequest:
        main = self.series[number % len(self.series)]
        given = {
            "main_series_id": main,
            "series_ids": [main],
            "lane": "lab",
            "model": MODEL if number % 3 else "",
            "fingerprint": fingerprint_of(main, [main, str(number)], ""),
            "requested_by": "dr.kim" if number % 2 else "dr.lee",
            "user": self.user,
            **values,
        }
        return SegmentationRequest.objects.create(**given)

    def ended(self, number: int) -> None:
        """Make one that ended: most in the last day, fewer the longer ago."""
        finished = self.now - timedelta(minutes=7 + 11 * number + number**3 / 8)
        started = finished - timedelta(seconds=20 + 37 * number % 240)
        made = started - timedelta(seconds=5 + 53 * number % 400)
        times = {"created_at": made, "started_at": started, "finished_at": finished}
        if number % 9 == 4:
            code, message = FAILURES[number // 9 % len(FAILURES)]
            failure = {"failure_code": code, "failure_message": message}
            self._request(
                number,
                status="failed",
                attempt_count=3,
                processed_by="lab-pc-1",
                **failure,
                **times,
            )
        elif number % 13 == 7:
            self._request(number, status="cancelled", **(times | {"started_at": None}))
        else:
            self._request(
                number,
                status="completed",
                attempt_count=1,
                processed_by="lab-pc-1",
                result={"tumor_detected": True},
                result_lease_id=uuid.uuid4(),
                **times,
            )

    def under_way(self) -> None:
        """Make one that is worked on, and five that wait."""
        lease = uuid.uuid4()
        soon = self.now + timedelta(minutes=5)
        running = self._request(
            1000,
            status="processing",
            stage="inferring",
            progress=0.37,
            attempt_count=2,
            processed_by="lab-pc-1",
            lease_id=lease,
            lease_expires_at=soon,
            deadline_at=soon,
            created_at=self.now - timedelta(minutes=6),
            started_at=self.now - timedelta(seconds=80),
        )
        Attempt.objects.create(
            request=running,
            number=2,
            lease_id=lease,
            token=ApiToken.objects.get(name="lab-pc-1"),
            worker=self.lab,
            worker_name="lab-pc-1",
        )
        for number in range(1001, 1006):
            created = self.now - timedelta(seconds=40 * (1006 - number))
            priority = 10 if number == 1003 else 0
            self._request(number, created_at=created, priority=priority)

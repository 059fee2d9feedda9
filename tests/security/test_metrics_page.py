"""The metrics: never open, true, and the same from every process."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from django_queue_app import metrics
from tests.support.live_site import RESULT, WORKER, new_key

API = "/api/mri/segmentation"
LOOPBACK = {"headers": {"Host": "127.0.0.1:8000"}}


def read(client: Client, **more: Any) -> dict[tuple[str, ...], float]:
    answer = client.get("/metrics", **more)
    assert answer.status_code == 200, answer.content
    return {
        (sample.name.removeprefix("mri_site_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.content.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({}, "10.0.0.9"),
        ({}, ""),
        ({"X-Forwarded-For": "127.0.0.1"}, "127.0.0.1"),
        ({"Forwarded": "for=127.0.0.1"}, "127.0.0.1"),
        ({"Host": "mri.example"}, "127.0.0.1"),
        ({"Authorization": "Bearer "}, "10.0.0.9"),
    ],
)
def test_without_a_token_only_this_machine_reads_them(
    client: Client, db: None, settings: Any, headers: dict[str, str], address: str
) -> None:
    settings.ALLOWED_HOSTS = ["mri.example", "testserver", "127.0.0.1"]
    answer = client.get("/metrics", headers=headers, REMOTE_ADDR=address)
    assert (answer.status_code, answer.json()["code"]) == (403, "metrics_closed")
    assert b"mri_site_" not in answer.content


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000"])
def test_this_machine_reads_them(client: Client, db: None, settings: Any, host: str) -> None:
    settings.ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
    assert client.get("/metrics", headers={"Host": host}).status_code == 200
    assert client.post("/metrics", headers={"Host": host}).status_code == 405


def test_with_a_token_who_has_it_reads_them(client: Client, site: Any, settings: Any) -> None:
    settings.SEGMENTATION_METRICS_TOKEN = "m" * 40
    good = {"Authorization": "Bearer " + "m" * 40}
    assert client.get("/metrics", headers=good, REMOTE_ADDR="10.0.0.9").status_code == 200
    for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Bearer é"}, site.as_user()):
        answer = client.get("/metrics", headers=wrong)  # from this machine, too
        assert (answer.status_code, answer.json()["code"]) == (403, "credentials_refused")


def test_the_queue_is_told_by_lane(client: Client, site: Any) -> None:
    from django_queue_app.models import SegmentationRequest

    empty = read(client)
    assert empty[("requests_active", "lab", "pending")] == 0
    assert empty[("oldest_pending_seconds", "lab")] == 0
    path = f"{API}/series/{site.series_id}/request-local/"
    client.post(path, data={}, content_type="application/json", headers=site.as_user())
    long_ago = timezone.now() - timedelta(seconds=500)
    SegmentationRequest.objects.update(created_at=long_ago)
    found = read(client)
    assert found[("requests_active", "lab", "pending")] == 1
    assert found[("requests_active", "cloud", "pending")] == 0
    assert 500 <= found[("oldest_pending_seconds", "lab")] < 560
    assert found[("workers_online", "lab")] == 0


def test_a_case_is_told_from_its_claim_to_the_archive(client: Client, site: Any) -> None:
    from django_queue_app.models import SegmentationRequest

    path = f"{API}/series/{site.series_id}/request-local/"
    client.post(path, data={}, content_type="application/json", headers=site.as_user())
    lease = new_key()
    client.post(
        f"{API}/pending-requests/claim/",
        data=WORKER,
        content_type="application/json",
        headers=site.as_worker(**{"Idempotency-Key": lease}),
    )
    found = read(client)
    assert found[("attempts_total", "lab", "running")] == 1
    assert found[("workers_online", "lab")] == 1
    now = timezone.now()
    request = SegmentationRequest.objects.get()
    request.attempts.update(outcome="completed", ended_at=now)
    SegmentationRequest.objects.update(
        status="completed",
        created_at=now - timedelta(seconds=90),
        finished_at=now - timedelta(seconds=30),
        lease_id=None,
        lease_expires_at=None,
        deadline_at=None,
        result_lease_id=lease,
        seg_instance_id="seg",
        # A worker may send what it likes under a name of its own.
        result={**RESULT, "timings": {"inferring": 4.5, "loading": 2, "x" * 90: 1, "writing": "a"}},
    )
    found = read(client)
    assert found[("attempts_total", "lab", "completed")] == 1
    assert found[("requests_finished_total", "completed")] == 1
    assert found[("pacs_waiting",)] == 1
    assert 30 <= found[("pacs_oldest_waiting_seconds",)] < 90
    assert found[("stage_seconds", "0.95", "inferring")] == 4.5
    assert found[("stage_seconds", "0.5", "filed_to_result")] == pytest.approx(60)
    stages = {key[2] for key in found if key[0] == "stage_seconds"}
    assert stages == {"inferring", "loading", "filed_to_result"}
    SegmentationRequest.objects.update(saved_to_pacs_at=now)
    found = read(client)
    assert (found[("pacs_waiting",)], found[("pacs_stored_total",)]) == (0, 1)


def test_calls_are_counted_by_route_and_never_by_address(client: Client, site: Any) -> None:
    def count(route: str, status: str) -> float:
        return read(client).get(("http_calls_total", "GET", route, status), 0)

    before = count("api/mri/segmentation/status/<request_id>/", "404")
    client.get(f"{API}/status/{new_key()}/", headers=site.as_user())
    client.get(f"{API}/status/nonsense/", headers=site.as_user())
    assert count("api/mri/segmentation/status/<request_id>/", "404") == before + 2
    client.get("/some/made-up/address")
    text = client.get("/metrics").content.decode()
    assert "made-up" not in text
    assert "nonsense" not in text


def test_quantiles_of_one_and_of_many() -> None:
    assert metrics._quantiles([3.0]) == [("0.5", 3.0), ("0.95", 3.0)]
    assert metrics._quantiles([float(n) for n in range(101)]) == [("0.5", 50.0), ("0.95", 95.0)]

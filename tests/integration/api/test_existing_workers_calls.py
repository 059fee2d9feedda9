"""Existing workers' four calls, and the two of the oldest ones, over HTTP."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from django.test import Client

from tests.support.live_site import WORKER, new_key

# A request that does not exist; written out, so that a test can be named by it.
NO_REQUEST = "1b4e28ba-2fa1-4d43-883f-0016d3cca427"

API = "/api/mri/segmentation"
SEG = "-".join(["5e65e65e"] * 5)


class Script:
    """An existing worker: Basic credentials, no lease."""

    def __init__(self, client: Client, site: Any, name: str, secret: str) -> None:
        self.client, self.site = client, site
        self.auth = "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()

    def get(self, path: str) -> Any:
        return self.client.get(path, headers={"Authorization": self.auth})

    def post(self, path: str, body: Any) -> Any:
        return self.client.post(
            path, data=body, content_type="application/json", headers={"Authorization": self.auth}
        )

    def pending(self) -> dict[str, Any]:
        return dict(self.get(f"{API}/pending-requests/").json())

    def start(self, request_id: str) -> Any:
        body = {"status": "processing", "started_at": "2020-01-01T00:00:00"}
        return self.post(f"{API}/update-status/{request_id}/", body)

    def finish(self, request_id: str, **body: Any) -> Any:
        done = {
            "success": True,
            "seg_instance_id": SEG,
            "tumor_detected": True,
            "tumor_volume_voxels": 12,
            "elapsed_time_seconds": 3.5,
            "error": None,
        }
        return self.post(f"{API}/complete-request/{request_id}/", {**done, **body})

    def file(self, **body: Any) -> str:
        answer = self.client.post(
            f"{API}/series/{self.site.series_id}/request-local/",
            data=body,
            content_type="application/json",
            headers=self.site.as_user(),
        )
        return str(answer.json()["request_id"])

    def status(self, request_id: str) -> dict[str, Any]:
        return dict(
            self.client.get(f"{API}/status/{request_id}/", headers=self.site.as_user()).json()
        )


@pytest.fixture
def script(client: Client, site: Any) -> Script:
    return Script(client, site, "lab-pc", site.worker_secret)


@pytest.fixture
def second(client: Client, site: Any) -> Script:
    from django_queue_app import tokens

    _, secret = tokens.create(name="second", kind="worker", lane="lab")
    return Script(client, site, "second", secret)


def test_the_whole_story_of_an_existing_worker(script: Script) -> None:
    filed = script.file()
    listed = script.pending()
    assert (listed["success"], listed["count"]) == (True, 1)
    item = listed["requests"][0]
    assert set(item) == {
        "request_id",
        "series_ids",
        "main_series_id",
        "requested_at",
        "requested_by",
    }
    assert item["request_id"] == filed
    assert script.start(filed).status_code == 200
    assert script.status(filed)["status"] == "processing"
    assert script.finish(filed).status_code == 200
    status = script.status(filed)
    assert status["status"] == "completed"
    result = status["result"]
    assert result["tumor_volume_voxels"] == 12
    assert result["seg_instance_id"] == SEG
    assert result["saved_to_pacs"] is result["saved_to_orthanc"] is True


def test_it_is_shown_one_request_which_is_kept_for_it(script: Script, second: Script) -> None:
    script.file()
    script.file(force=True)
    mine, its = script.pending()["requests"], second.pending()["requests"]
    assert len(mine) == len(its) == 1
    assert mine[0]["request_id"] != its[0]["request_id"]
    assert script.pending()["requests"] == mine
    claimed = script.client.post(
        f"{API}/pending-requests/claim/",
        data=WORKER,
        content_type="application/json",
        headers={"Authorization": second.auth, "Idempotency-Key": new_key()},
    )
    assert claimed.json()["request_id"] == its[0]["request_id"]


def test_starting_what_another_has_is_409_and_its_failure_changes_nothing(
    script: Script, second: Script
) -> None:
    filed = script.file()
    assert script.start(filed).status_code == 200
    answer = second.start(filed)
    assert (answer.status_code, answer.json()["code"]) == (409, "already_claimed")
    assert second.finish(filed, success=False, error="409").status_code == 409
    assert script.status(filed)["status"] == "processing"


def test_a_late_failure_on_a_finished_request_is_200_and_changes_nothing(script: Script) -> None:
    filed = script.file()
    script.start(filed)
    script.finish(filed)
    late = script.finish(filed, success=False, error="timeout")
    assert (late.status_code, late.json()["outcome"]) == (200, "unchanged")
    assert script.status(filed)["status"] == "completed"


def test_it_can_not_touch_the_live_lease_of_a_worker_of_ours(
    script: Script, second: Script
) -> None:
    filed = script.file()
    script.client.post(
        f"{API}/pending-requests/claim/",
        data=WORKER,
        content_type="application/json",
        headers={"Authorization": second.auth, "Idempotency-Key": new_key()},
    )
    assert script.finish(filed).status_code == 409
    assert script.status(filed)["status"] == "processing"


def test_a_user_lists_the_queue_without_changing_it(script: Script, second: Script) -> None:
    for _ in range(3):
        script.file(force=True)
    for _ in range(2):
        answer = script.client.get(f"{API}/pending-requests/", headers=script.site.as_user())
        assert answer.json()["count"] == 3
        assert script.get(f"{API}/pending-requests/?all=1").json()["count"] == 3
    assert script.pending()["count"] == second.pending()["count"] == 1


def test_the_oldest_workers_claim_and_complete(script: Script) -> None:
    assert script.get("/api/inference/pending").json()["id"] is None
    filed = script.file()
    job = script.get("/api/inference/pending").json()
    assert (job["id"], job["series_id"]) == (filed, script.site.series_id)
    assert job["series_ids"] == [script.site.series_id]
    assert script.get("/api/inference/pending").json()["id"] is None
    body = {"success": True, "seg_instance_id": SEG, "inference_time_seconds": 9.5}
    answer = script.post(f"/api/inference/{filed}/complete", body)
    assert answer.status_code == 200
    assert script.status(filed)["result"]["elapsed_time_seconds"] == 9.5


@pytest.mark.parametrize("request_id", ["x", NO_REQUEST, "%00"])
def test_unknown_requests_are_404(script: Script, request_id: str) -> None:
    assert script.start(request_id).status_code == 404
    assert script.finish(request_id).status_code == 404
    path = f"/api/inference/{request_id}/complete"
    assert script.post(path, {"success": True}).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"success": "maybe"},
        {},
        {"success": True, "tumor_volume_voxels": -1},
        {"success": True, "tumor_volume_voxels": 10**30},
        {"success": True, "seg_instance_id": "\x00"},
        {"success": True, "seg_instance_id": "x" * 1000},
    ],
)
def test_nonsense_is_422(script: Script, body: Any) -> None:
    filed = script.file()
    script.start(filed)
    answer = script.post(f"{API}/complete-request/{filed}/", body)
    assert answer.status_code == 422, answer.content
    assert script.status(filed)["status"] == "processing"


def test_a_status_that_is_not_processing_is_refused(script: Script) -> None:
    filed = script.file()
    answer = script.post(f"{API}/update-status/{filed}/", {"status": "completed"})
    assert answer.status_code == 422

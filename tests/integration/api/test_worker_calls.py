"""What a worker does: claim, fetch, beat, upload, complete, fail, give back."""

from __future__ import annotations

import hashlib
import io
import tarfile
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from django_queue_app.api.headers import content_digest
from tests.support.live_site import RESULT, WORKER, new_key

# A request that does not exist; written out, so that a test can be named by it.
NO_REQUEST = "1b4e28ba-2fa1-4d43-883f-0016d3cca427"

API = "/api/mri/segmentation"


class Lab:
    """A worker's side of the protocol."""

    def __init__(self, client: Client, site: Any) -> None:
        self.client, self.site = client, site

    def file(self, **body: Any) -> str:
        answer = self.client.post(
            f"{API}/series/{self.site.series_id}/request-local/",
            data=body,
            content_type="application/json",
            headers=self.site.as_user(),
        )
        return str(answer.json()["request_id"])

    def status(self, request_id: str) -> dict[str, Any]:
        answer = self.client.get(f"{API}/status/{request_id}/", headers=self.site.as_user())
        return dict(answer.json())

    def post(self, path: str, body: Any, secret: str = "", **headers: str) -> Any:
        known = {"Authorization": f"Bearer {secret or self.site.worker_secret}"}
        return self.client.post(
            f"{API}/{path}",
            data=body,
            content_type="application/json",
            headers={**known, **headers},
        )

    def claim(self, key: str, body: Any = None, **headers: str) -> Any:
        headers = {"Idempotency-Key": key, **headers}
        return self.post("pending-requests/claim/", body or WORKER, **headers)

    def granted(self) -> dict[str, Any]:
        answer = self.claim(new_key())
        assert answer.status_code == 200, answer.content
        return dict(answer.json())

    def with_lease(self, path: str, lease: str, body: Any = None, **headers: str) -> Any:
        return self.post(path, body or {}, **{"If-Match": f'"{lease}"', **headers})

    def put(self, request_id: str, lease: str, name: str, data: bytes, **headers: str) -> Any:
        digest = content_digest(hashlib.sha256(data).hexdigest())
        sent = {"If-Match": f'"{lease}"', "Content-Digest": digest, **headers}
        return self.client.put(
            f"{API}/requests/{request_id}/artifacts/{name}",
            data=data,
            content_type="application/octet-stream",
            headers={**self.site.as_worker(), **{k: v for k, v in sent.items() if v}},
        )


@pytest.fixture
def lab(client: Client, site: Any) -> Lab:
    return Lab(client, site)


def test_a_claim_grants_the_lease_and_the_manifest(lab: Lab) -> None:
    filed, key = lab.file(), new_key()
    job = lab.claim(key).json()
    assert job["success"] is True
    assert job["request_id"] == filed
    assert job["main_series_id"] == lab.site.series_id
    assert (job["attempt"], job["lease"]["id"]) == (1, key)
    assert job["order"] == "given"
    assert 80 < job["lease"]["expires_in"] <= 90
    assert job["lease"]["deadline_in"] > 1700
    assert [len(one["instances"]) for one in job["manifest"]] == [3]
    assert lab.status(filed)["status"] == "processing"


def test_a_lost_answer_is_replayed_by_the_same_key(lab: Lab) -> None:
    lab.file()
    key = new_key()
    assert lab.claim(key).json()["request_id"] == lab.claim(key).json()["request_id"]
    assert lab.claim(new_key()).status_code == 204


def test_a_worker_may_describe_its_models_and_leave_things_open(lab: Lab) -> None:
    filed = lab.file(model="demo")
    about = {"name": "pc", "version": None, "device": None}
    assert lab.claim(new_key(), {"worker": {**about, "models": None}}).status_code == 204
    described = {"worker": {**about, "models": [{"name": "demo", "version": "1"}]}}
    assert lab.claim(new_key(), described).json()["request_id"] == filed


def test_without_work_a_claim_is_204_with_when_to_ask_again(lab: Lab) -> None:
    answer = lab.claim(new_key(), Prefer="wait=20")
    assert (answer.status_code, answer.content) == (204, b"")
    assert int(answer["Retry-After"]) >= 1
    assert "X-Hold" not in answer


@pytest.mark.parametrize("key", ["", "x", "é", NO_REQUEST[:-1]])
def test_a_claim_without_a_key_is_400(lab: Lab, key: str) -> None:
    answer = lab.claim(key)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_idempotency_key")


@pytest.mark.parametrize(
    "body",
    [
        {"worker": {"name": ""}},
        {"worker": {}},
        {"worker": 7},
        {"worker": {"name": "x", "models": "all"}},
        {"worker": {"name": "x", "models": ["a"] * 300}},
        {"worker": {"name": "x" * 500}},
        {"worker": {"name": "x\x00"}},
        {},
    ],
)
def test_a_worker_that_says_nonsense_is_422(lab: Lab, body: Any) -> None:
    answer = lab.claim(new_key(), body or {"x": 1})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("version", "status"), [("1.2", 426), ("", 426), ("x", 426), ("1.10", 204), ("v2", 204)]
)
def test_a_worker_that_is_too_old_is_426(
    lab: Lab, settings: Any, version: str, status: int
) -> None:
    settings.SEGMENTATION_MIN_WORKER_VERSION = "1.10"
    answer = lab.claim(new_key(), {"worker": {"name": "pc", "version": version}})
    assert answer.status_code == status


def test_an_input_that_vanished_fails_the_request_and_the_next_one_is_taken(lab: Lab) -> None:
    from django_queue_app.models import SegmentationRequest

    gone, next_one = lab.file(), lab.file(force=True)
    missing = "-".join(["0123abcd"] * 5)
    SegmentationRequest.objects.filter(pk=gone).update(series_ids=[missing])
    assert lab.claim(new_key()).status_code == 204
    assert lab.granted()["request_id"] == next_one
    status = lab.status(gone)
    assert (status["status"], status["failure"]["code"]) == ("failed", "input_vanished")


def test_an_instance_is_served_whole_in_parts_and_not_at_all(lab: Lab) -> None:
    lab.file()
    job = lab.granted()
    item = job["manifest"][0]["instances"][0]
    path = f"{API}/requests/{job['request_id']}/instances/{item['id']}"

    def get(**headers: str) -> Any:
        return lab.client.get(path, headers=lab.site.as_worker(**headers))

    whole = get()
    assert whole.status_code == 200
    assert whole["Content-Type"] == "application/dicom"
    assert len(whole.content) == item["bytes"] == int(whole["Content-Length"])
    assert hashlib.sha256(whole.content).hexdigest() == item["sha256"]
    assert whole["ETag"] == f'"{item["sha256"]}"'
    part = get(Range="bytes=128-131")
    assert (part.status_code, part.content) == (206, b"DICM")
    assert part["Content-Range"] == f"bytes 128-131/{item['bytes']}"
    beyond = get(Range="bytes=9999999-")
    assert beyond.status_code == 416
    assert beyond["Content-Range"] == f"bytes */{item['bytes']}"
    assert beyond.json()["code"] == "range_not_satisfiable"
    known = get(**{"If-None-Match": whole["ETag"]})
    assert (known.status_code, known.content) == (304, b"")


def test_several_instances_are_served_in_one_answer(lab: Lab, monkeypatch: Any) -> None:
    lab.file()
    job = lab.granted()
    assert job["instances_at_once"] == 64
    items = job["manifest"][0]["instances"]
    path = f"requests/{job['request_id']}/instances/"

    def read(*ids: str) -> dict[str, bytes]:
        answer = lab.post(path, {"instance_ids": ids})
        assert (answer.status_code, answer["Content-Type"]) == (200, "application/x-tar")
        assert int(answer["Content-Length"]) == len(answer.content)
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
            return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]

    wanted = [item["id"] for item in reversed(items)]
    found = read(*wanted, wanted[0])
    assert list(found) == wanted
    for item in items:
        assert hashlib.sha256(found[item["id"]]).hexdigest() == item["sha256"]
    one = lab.client.get(f"{API}/{path}{wanted[0]}", headers=lab.site.as_worker())
    assert found[wanted[0]] == one.content
    # What does not fit into one answer is asked for again; one instance always fits.
    monkeypatch.setattr("django_queue_app.api.inputs.MOST_BATCH_BYTES", 1)
    assert list(read(*wanted)) == wanted[:1]


@pytest.mark.parametrize("ids", [[], ["x"] * 65, ["x" * 65], "x", [None], None])
def test_instances_must_be_named_one_to_sixty_four(lab: Lab, ids: Any) -> None:
    lab.file()
    job = lab.granted()
    answer = lab.post(f"requests/{job['request_id']}/instances/", {"instance_ids": ids})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_one_instance_that_is_not_the_requests_refuses_them_all(lab: Lab) -> None:
    from django_queue_app import tokens
    from django_queue_app.pacs import get_pacs

    lab.file()
    job = lab.granted()
    path = f"requests/{job['request_id']}/instances/"
    own = job["manifest"][0]["instances"][0]["id"]
    other = get_pacs().describe_series(lab.site.other_series_id).instances[0].id
    for instance in (other, "x"):
        answer = lab.post(path, {"instance_ids": [own, instance]})
        assert (answer.status_code, answer.json()["code"]) == (404, "instance_not_found")
    _, secret = tokens.create(name="other-pc", kind="worker", lane="lab")
    answer = lab.client.post(
        f"{API}/{path}",
        data={"instance_ids": [own]},
        content_type="application/json",
        headers={"Authorization": f"Bearer {secret}"},
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "not_your_job")
    lab.client.post(f"{API}/requests/{job['request_id']}/cancel/", headers=lab.site.as_user())
    answer = lab.post(path, {"instance_ids": [own]})
    assert (answer.status_code, answer.json()["code"]) == (410, "cancelled")


def test_an_instance_of_another_series_or_worker_is_refused(lab: Lab) -> None:
    from django_queue_app import tokens
    from django_queue_app.pacs import get_pacs

    lab.file()
    job = lab.granted()
    path = f"{API}/requests/{job['request_id']}/instances/"
    other = get_pacs().describe_series(lab.site.other_series_id).instances[0].id
    for instance in (other, "x", "%00"):
        answer = lab.client.get(path + instance, headers=lab.site.as_worker())
        assert (answer.status_code, answer.json()["code"]) == (404, "instance_not_found")
    _, secret = tokens.create(name="other-pc", kind="worker", lane="lab")
    item = job["manifest"][0]["instances"][0]["id"]
    answer = lab.client.get(path + item, headers={"Authorization": f"Bearer {secret}"})
    assert (answer.status_code, answer.json()["code"]) == (403, "not_your_job")


def test_a_heartbeat_renews_until_the_request_is_cancelled(lab: Lab) -> None:
    filed = lab.file()
    lease = lab.granted()["lease"]["id"]
    beat = {"stage": "inferring", "progress": 0.5}
    answer = lab.with_lease(f"requests/{filed}/heartbeat/", lease, beat)
    assert answer.status_code == 200
    assert 80 < answer.json()["expires_in"] <= 90
    status = lab.status(filed)
    assert (status["stage"], status["progress"]) == ("inferring", 0.5)
    assert lab.with_lease(f"requests/{filed}/heartbeat/", new_key(), beat).status_code == 412
    assert lab.post(f"requests/{filed}/heartbeat/", beat).status_code == 400
    bad = lab.with_lease(f"requests/{filed}/heartbeat/", lease, {"stage": "x", "progress": 2})
    assert bad.status_code == 422
    lab.client.post(f"{API}/requests/{filed}/cancel/", headers=lab.site.as_user())
    answer = lab.with_lease(f"requests/{filed}/heartbeat/", lease, beat)
    assert (answer.status_code, answer.json()["code"]) == (410, "cancelled")


def test_a_heartbeat_that_says_little_leaves_the_rest_as_it_was(lab: Lab) -> None:
    filed = lab.file()
    lease = lab.granted()["lease"]["id"]
    told = []
    for body in ({"stage": "inferring", "progress": 0.5}, {}, {"progress": 0.75}, {"stage": None}):
        answer = lab.with_lease(f"requests/{filed}/heartbeat/", lease, body)
        assert answer.status_code == 200
        status = lab.status(filed)
        told.append((status["stage"], status["progress"]))
    assert told == [("inferring", 0.5)] * 2 + [("inferring", 0.75)] * 2
    answer = lab.client.post(
        f"{API}/requests/{filed}/heartbeat/",
        data=b"",
        content_type="application/json",
        headers=lab.site.as_worker(**{"If-Match": f'"{lease}"'}),
    )
    assert answer.status_code == 200


def test_a_lease_is_known_with_or_without_quotes_and_dashes(lab: Lab) -> None:
    filed, key = lab.file(), new_key()
    assert lab.claim(f'"{key.upper()}"').json()["lease"]["id"] == key
    for written in (f'"{key}"', key, key.upper(), key.replace("-", "")):
        answer = lab.post(f"requests/{filed}/heartbeat/", {}, **{"If-Match": written})
        assert answer.status_code == 200, written


@pytest.mark.parametrize("written", ["", '"x"', "*", 'W/"x"', '"é"'])
def test_what_is_no_uuid_was_never_a_lease(lab: Lab, written: str) -> None:
    filed = lab.file()
    lab.granted()
    for path in (f"requests/{filed}/heartbeat/", f"requests/{filed}/release/"):
        answer = lab.post(path, {}, **{"If-Match": written})
        assert (answer.status_code, answer.json()["code"]) == (412, "lease_never_issued")
    answer = lab.post(f"requests/{uuid4()}/heartbeat/", {}, **{"If-Match": written})
    assert answer.status_code == 404


def test_an_upload_is_201_then_200_and_its_digest_is_checked(lab: Lab) -> None:
    filed = lab.file()
    lease = lab.granted()["lease"]["id"]
    assert lab.put(filed, lease, "preview.png", b"one").status_code == 201
    assert lab.put(filed, lease, "preview.png", b"one").status_code == 200
    assert lab.put(filed, lease, "preview.png", b"two").status_code == 201
    wrong = content_digest(hashlib.sha256(b"x").hexdigest())
    answer = lab.put(filed, lease, "mask.dcm", b"one", **{"Content-Digest": wrong})
    assert (answer.status_code, answer.json()["code"]) == (422, "digest_mismatch")
    answer = lab.put(filed, lease, "mask.dcm", b"one", **{"Content-Digest": ""})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_content_digest")
    assert lab.put(filed, new_key(), "mask.dcm", b"one").status_code == 412
    assert lab.put(filed, lease, "virus.exe", b"one").status_code == 404
    assert lab.put(str(uuid4()), lease, "mask.dcm", b"one").status_code == 404


def test_what_was_refused_leaves_no_file(lab: Lab, tmp_path: Any) -> None:
    filed = lab.file()
    lease = lab.granted()["lease"]["id"]
    wrong = content_digest(hashlib.sha256(b"x").hexdigest())
    lab.put(filed, lease, "mask.dcm", b"one", **{"Content-Digest": wrong})
    lab.put(filed, new_key(), "mask.dcm", b"one")
    lab.put(filed, lease, "mask.nii.gz", b"one")
    lab.put(filed, lease, "mask.nii.gz", b"one")
    kept = [path.name for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    assert [name.partition("-")[2] for name in kept] == ["mask.nii.gz"]


def test_an_upload_beyond_the_limit_is_413(lab: Lab, settings: Any) -> None:
    settings.MAX_UPLOAD_BYTES = 100
    filed = lab.file()
    lease = lab.granted()["lease"]["id"]
    assert lab.put(filed, lease, "mask.dcm", b"x" * 101).status_code == 413
    assert lab.put(filed, lease, "preview.png", b"x" * 100).status_code == 201


def test_a_result_without_its_mask_is_422(lab: Lab) -> None:
    filed = lab.file()
    lease = lab.granted()["lease"]["id"]
    for artifacts in ({}, {"mask.dcm": "0" * 64}):
        body = {"success": True, "result": RESULT, "artifacts": artifacts}
        answer = lab.with_lease(f"complete-request/{filed}/", lease, body)
        assert (answer.status_code, answer.json()["code"]) == (422, "artifact_missing")
    for body in ({"success": True}, {"success": False}, {}, {"success": True, "result": {}}):
        answer = lab.with_lease(f"complete-request/{filed}/", lease, body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert lab.status(filed)["status"] == "processing"


@pytest.mark.parametrize("place", ["result", "beside"])
@pytest.mark.parametrize("key", ["artifacts", "digests"])
def test_a_result_is_understood_in_the_forms_that_the_contract_leaves_open(
    lab: Lab, place: str, key: str
) -> None:
    filed = lab.file()
    lease = lab.granted()["lease"]["id"]
    result = {"result": RESULT} if place == "result" else RESULT
    body = {"success": True, **result, key: [{"name": "mask.dcm", "sha256": "0" * 64}]}
    answer = lab.with_lease(f"complete-request/{filed}/", lease, body)
    assert (answer.status_code, answer.json()["code"]) == (422, "artifact_missing")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"failure": {"code": "out_of_memory"}}, "out_of_memory"),
        ({"error": "It broke."}, "worker_failed"),
    ],
)
def test_a_failure_that_says_little_is_tried_again(lab: Lab, body: Any, told: str) -> None:
    from django_queue_app.models import SegmentationRequest

    filed = lab.file()
    lease = lab.granted()["lease"]["id"]
    answer = lab.with_lease(f"complete-request/{filed}/", lease, {"success": False, **body})
    assert (answer.status_code, answer.json()["status"]) == (200, "pending")
    last = SegmentationRequest.objects.get(pk=filed).events.order_by("id").last()
    assert last is not None
    assert last.reason == told


def test_a_failure_ends_or_repeats_as_it_says(lab: Lab) -> None:
    filed = lab.file()
    lease = lab.granted()["lease"]["id"]
    failure = {"code": "missing_slices", "message": "Slice 7 is missing.", "retryable": False}
    body = {"success": False, "failure": failure}
    stale = lab.with_lease(f"complete-request/{filed}/", new_key(), body)
    assert stale.status_code == 412
    answer = lab.with_lease(f"complete-request/{filed}/", lease, body)
    assert (answer.status_code, answer.json()["status"]) == (200, "failed")
    assert lab.status(filed)["failure"] == {
        "code": "missing_slices",
        "message": "Slice 7 is missing.",
    }


def test_a_page_that_waits_for_a_failing_request_is_told_why(lab: Lab) -> None:
    from django_queue_app.models import SegmentationRequest

    filed = lab.file()
    lease = lab.granted()["lease"]["id"]
    failure = {"code": "missing_slices", "message": "Slice 7 is missing.", "retryable": False}
    lab.with_lease(f"complete-request/{filed}/", lease, {"success": False, "failure": failure})
    job = SegmentationRequest.objects.get(pk=filed)
    answer = answer_of(lab, job)
    assert answer.status_code == 502
    assert answer_json(answer)["code"] == "segmentation_failed"
    assert answer_json(answer)["failure"]["code"] == "missing_slices"
    assert "Slice 7 is missing." in answer_json(answer)["error"]


def answer_of(lab: Lab, job: Any) -> Any:
    from django.test import RequestFactory

    from django_queue_app.api.headers import Prefer
    from django_queue_app.api.waiting import answer_after_wait

    request = RequestFactory().post("/")
    return answer_after_wait(request, job, prefer=Prefer(), is_deduplicated=True)


def answer_json(answer: Any) -> dict[str, Any]:
    import json

    return dict(json.loads(answer.content))


def test_a_released_request_is_there_for_the_next_worker(lab: Lab) -> None:
    filed = lab.file()
    lease = lab.granted()["lease"]["id"]
    answer = lab.with_lease(f"requests/{filed}/release/", lease)
    assert (answer.status_code, answer.json()["status"]) == (200, "pending")
    job = lab.granted()
    assert (job["request_id"], job["attempt"]) == (filed, 1)
    assert lab.with_lease(f"requests/{filed}/release/", lease).status_code == 412


@pytest.mark.parametrize("request_id", ["x", "%00", NO_REQUEST])
def test_calls_about_an_unknown_request_are_404(lab: Lab, request_id: str) -> None:
    lease = new_key()
    for path, body in [
        (f"requests/{request_id}/heartbeat/", {"stage": "loading", "progress": 0}),
        (f"requests/{request_id}/release/", {}),
        (f"complete-request/{request_id}/", {"success": True, "result": RESULT, "artifacts": {}}),
    ]:
        answer = lab.with_lease(path, lease, body)
        assert (answer.status_code, answer.json()["code"]) == (404, "request_not_found"), path

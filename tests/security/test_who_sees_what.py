"""A worker reads what it works on while it works on it; a user sees what the site's rule says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from django.db.models import Q
from django.test import Client

from tests.support.live_site import WORKER, new_key

API = "/api/mri/segmentation"


def file(client: Client, site: Any, **headers: str) -> str:
    answer = client.post(
        f"{API}/series/{site.series_id}/request-local/",
        data={},
        content_type="application/json",
        headers=headers or site.as_user(),
    )
    return str(answer.json()["request_id"])


def claim(client: Client, secret: str, lease: str) -> Any:
    return client.post(
        f"{API}/pending-requests/claim/",
        data=WORKER,
        content_type="application/json",
        headers={"Authorization": f"Bearer {secret}", "Idempotency-Key": lease},
    )


@dataclass
class Held:
    """A request that a worker holds, and the address of its first image."""

    client: Client
    site: Any
    lease: str
    request_id: str
    instance: str

    def read(self, secret: str = "") -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {secret or self.site.worker_secret}"}
        answer = self.client.get(self.instance, headers=headers)
        is_image = answer["Content-Type"] == "application/dicom"
        return answer.status_code, "" if is_image else answer.json()["code"]

    def call(self, path: str, body: Any = None) -> Any:
        return self.client.post(
            f"{API}/{path}",
            data=body or {},
            content_type="application/json",
            headers=self.site.as_worker(**{"If-Match": f'"{self.lease}"'}),
        )


@pytest.fixture
def held(client: Client, site: Any) -> Held:
    lease = new_key()
    request_id = file(client, site)
    job = claim(client, site.worker_secret, lease).json()
    path = f"{API}/requests/{request_id}/instances/{job['manifest'][0]['instances'][0]['id']}"
    return Held(client, site, lease, request_id, path)


def test_who_holds_a_request_reads_its_images_and_nobody_else(held: Held) -> None:
    from django_queue_app import tokens

    assert held.read() == (200, "")
    _, other = tokens.create(name="other-pc", kind="worker", lane="lab")
    assert held.read(other) == (403, "not_your_job")
    assert held.read(held.site.user_secret) == (403, "worker_token_required")


def test_who_gave_it_back_reads_nothing_more(held: Held) -> None:
    assert held.call(f"requests/{held.request_id}/release/").status_code == 200
    assert held.read() == (412, "lease_not_current")
    from django_queue_app import tokens

    _, other = tokens.create(name="other-pc", kind="worker", lane="lab")
    assert claim(held.client, other, new_key()).status_code == 200
    assert held.read() == (412, "lease_not_current")
    assert held.read(other) == (200, "")


def test_an_ended_request_gives_no_images(held: Held) -> None:
    failure = {"code": "bad_spacing", "retryable": False}
    held.call(f"complete-request/{held.request_id}/", {"success": False, "failure": failure})
    assert held.read() == (410, "finished")


def test_a_cancelled_request_gives_no_images(held: Held) -> None:
    path = f"{API}/requests/{held.request_id}/cancel/"
    held.client.post(path, headers=held.site.as_user())
    assert held.read() == (410, "cancelled")


def test_a_revoked_worker_loses_what_it_holds(held: Held) -> None:
    from django_queue_app import tokens

    tokens.revoke(held.site.worker_token)
    assert held.read() == (403, "credentials_refused")
    assert held.call(f"requests/{held.request_id}/heartbeat/").status_code == 403


def test_a_token_takes_nothing_from_another_lane(client: Client, site: Any) -> None:
    from django_queue_app import tokens

    file(client, site)
    _, cloud = tokens.create(name="cloud-pc", kind="worker", lane="cloud")
    assert claim(client, cloud, new_key()).status_code == 204
    offered = client.get(
        f"{API}/pending-requests/", headers={"Authorization": f"Bearer {cloud}"}
    ).json()
    assert offered["count"] == 0


def test_tokens_are_compared_by_digest_in_the_database(site: Any) -> None:
    """An attacker who times the answer learns about digests, which lead to no token."""
    from django_queue_app.models import ApiToken

    stored = " ".join(str(value) for row in ApiToken.objects.values() for value in row.values())
    assert site.worker_secret not in stored
    assert site.worker_token.digest in stored


def own_requests(user: Any) -> Q:
    """A rule as a site may write it."""
    return Q(user=user)


RULE = f"{__name__}.own_requests"


def test_a_site_may_narrow_what_a_user_sees(
    client: Client, site: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.contrib.auth import get_user_model

    from django_queue_app import tokens
    from django_queue_app.api import visibility
    from django_queue_app.models import SegmentationRequest
    from django_queue_app.pacs import get_pacs

    monkeypatch.setattr(visibility, "import_string", {RULE: own_requests}.__getitem__)
    settings.SEGMENTATION_VISIBLE_REQUESTS = RULE
    request_id = file(client, site)
    # Of the archive's own, so that only the rule can say that it isn't there.
    seg = get_pacs().describe_series(site.series_id).instances[0].id
    SegmentationRequest.objects.update(seg_instance_id=seg)
    other = get_user_model().objects.create_user("other")
    _, secret = tokens.create(name="other", kind="user", user=other)
    headers = {"Authorization": f"Bearer {secret}"}
    reads = [
        f"status/{request_id}/",
        f"requests/{request_id}/events/",
        f"requests/{request_id}/mask.dcm",
        f"instances/{seg}/frames/",
    ]
    for path in reads:
        assert client.get(f"{API}/{path}", headers=headers).status_code == 404, path
    for verb in ("cancel", "retry"):
        path = f"{API}/requests/{request_id}/{verb}/"
        assert client.post(path, headers=headers).status_code == 404
    for path in ("requests/", "pending-requests/"):
        assert client.get(f"{API}/{path}", headers=headers).json()["count"] == 0
    assert client.get(f"{API}/status/{request_id}/", headers=site.as_user()).status_code == 200
    frames = client.get(f"{API}/instances/{seg}/frames/", headers=site.as_user())
    assert frames.status_code == 422  # it is looked at, and is no mask

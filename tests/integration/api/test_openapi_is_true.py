"""A fuzzer that reads the OpenAPI document finds no undocumented status and no 500."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from django.test import Client
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.live_site import WORKER

pytestmark = [
    pytest.mark.slow,
    # Raised by the test client of a library that schemathesis uses.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

API = "/api/mri/segmentation"
EXAMPLES = 25


def is_no_mistake_of_ours(_context: Any, response: Any, _case: Any) -> None:
    """Refuse 500 only: 502, 503 and 504 are answers of the contract."""
    assert response.status_code != 500


CHECKS = (
    is_no_mistake_of_ours,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)


@pytest.fixture
def one_connection(known: KnownThings) -> Iterator[None]:
    """Leave the test's connection open between calls, as Django's own test client does.

    After `known`, which uses that client: it connects the signals again.
    """
    both = (request_started, request_finished)
    for each in both:
        each.disconnect(close_old_connections)
    yield
    for each in both:
        each.connect(close_old_connections)


def labels() -> list[str]:
    """List the calls that the document names."""
    from django_queue_app.api.site import api
    from django_queue_app.api.urls import urlpatterns  # adds the routers

    assert urlpatterns
    paths = api.get_openapi_schema(path_prefix="/api/")["paths"]
    return [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]


@pytest.fixture
def operations(one_connection: None) -> dict[str, Any]:
    document = schemathesis.openapi.from_wsgi("/api/mri/openapi.json", get_wsgi_application())
    found = (each.ok() for each in document.get_all_operations())
    return {one.label: one for one in found}


class KnownThings:
    """Real ids and leases, so that the fuzzer gets past the first 404."""

    def __init__(self, site: Any) -> None:
        self.site = site
        client = Client()
        filed = client.post(
            f"{API}/series/{site.series_id}/request-local/",
            data={},
            content_type="application/json",
            headers=site.as_user(),
        ).json()
        self.lease = str(uuid4())
        job = client.post(
            f"{API}/pending-requests/claim/",
            data=WORKER,
            content_type="application/json",
            headers=site.as_worker(**{"Idempotency-Key": self.lease}),
        ).json()
        self.values = {
            "request_id": filed["request_id"],
            "series_id": site.series_id,
            "instance_id": job["manifest"][0]["instances"][0]["id"],
            "seg_instance_id": job["manifest"][0]["instances"][0]["id"],
            "name": "mask.dcm",
        }

    def fill_in(self, case: Any, turn: int) -> dict[str, str]:
        """Replace what was made up: nothing, the ids, or the ids and the headers, in turn."""
        if turn % 3 and case.path_parameters:
            for name in case.path_parameters:
                case.path_parameters[name] = self.values.get(name, case.path_parameters[name])
        if turn % 2 and isinstance(case.body, dict) and "instance_ids" in case.body:
            case.body["instance_ids"] = [self.values["instance_id"]]
        is_worker = "worker" in "".join(case.operation.definition.raw.get("tags", []))
        headers = self.site.as_worker() if is_worker else self.site.as_user()
        if turn % 3 == 2:
            headers["If-Match"] = f'"{self.lease}"'
            headers["Idempotency-Key"] = str(uuid4())
        if turn % 7 != 6:
            # Else every segment call of this WSGI site would wait.
            headers["Prefer"] = "respond-async"
        return headers


@pytest.fixture
def known(site: Any) -> KnownThings:
    return KnownThings(site)


@pytest.fixture(autouse=True)
def _brief_waits(settings: Any, site: Any) -> None:
    settings.SEGMENTATION_WAIT_SECONDS = 0.05


@pytest.mark.parametrize("label", labels())
def test_every_answer_is_documented(
    label: str, operations: dict[str, Any], known: KnownThings
) -> None:
    turns = itertools.count()

    @given(case=operations[label].as_strategy())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def fuzz(case: Any) -> None:
        headers = known.fill_in(case, next(turns))
        case.call_and_validate(headers=headers, checks=CHECKS)

    fuzz()


def test_the_document_is_openapi_3_1_and_names_every_call_of_the_contract(client: Client) -> None:
    document = client.get("/api/mri/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    calls = {
        f"{method.upper()} {path.removeprefix('/api/mri/segmentation/')}"
        for path, methods in document["paths"].items()
        for method in methods
    }
    assert calls >= {
        "POST series/{series_id}/segment/",
        "POST series/{series_id}/request-local/",
        "POST instances/{instance_id}/segment/",
        "GET status/{request_id}/",
        "GET requests/",
        "POST requests/{request_id}/cancel/",
        "POST requests/{request_id}/retry/",
        "GET requests/{request_id}/mask.dcm",
        "GET requests/{request_id}/mask.nii.gz",
        "GET requests/{request_id}/preview.png",
        "GET requests/{request_id}/report.json",
        "GET requests/{request_id}/report.html",
        "GET instances/{seg_instance_id}/frames/",
        "GET series/",
        "GET health/",
        "POST pending-requests/claim/",
        "POST requests/{request_id}/heartbeat/",
        "GET requests/{request_id}/instances/{instance_id}",
        "POST requests/{request_id}/instances/",
        "PUT requests/{request_id}/artifacts/{name}",
        "POST complete-request/{request_id}/",
        "POST requests/{request_id}/release/",
        "GET pending-requests/",
        "POST update-status/{request_id}/",
        "GET /api/inference/pending",
        "POST /api/inference/{request_id}/complete",
        "POST /api/mri/dicom/",
    }

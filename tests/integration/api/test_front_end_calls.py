"""What a page does: file, follow, list, cancel, try again, download."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

# A request that does not exist; written out, so that a test can be named by it.
NO_REQUEST = "1b4e28ba-2fa1-4d43-883f-0016d3cca427"

API = "/api/mri/segmentation"


def post(client: Client, site: Any, path: str, body: Any = None, **headers: str) -> Any:
    return client.post(
        f"{API}/{path}",
        data=body if body is not None else {},
        content_type="application/json",
        headers={**site.as_user(), **headers},
    )


def get(client: Client, site: Any, path: str, **headers: str) -> Any:
    return client.get(f"{API}/{path}", headers={**site.as_user(), **headers})


def file(client: Client, site: Any, body: Any = None, series: str = "") -> dict[str, Any]:
    path = f"series/{series or site.series_id}/segment/"
    answer = post(client, site, path, body, prefer="respond-async")
    assert answer.status_code == 202, answer.content
    return dict(answer.json())


def test_respond_async_answers_202_with_where_to_look(client: Client, site: Any) -> None:
    path = f"series/{site.series_id}/segment/"
    body = {"sequence_series_ids": [site.series_id, site.other_series_id]}
    answer = post(client, site, path, body, prefer="respond-async")
    filed = answer.json()
    assert answer.status_code == 202
    assert answer["Preference-Applied"] == "respond-async"
    assert int(answer["Retry-After"]) > 0
    assert filed["success"] is True
    assert filed["deduplicated"] is False
    assert filed["lane"] == "lab"
    status = client.get(filed["status_url"], headers=site.as_user()).json()
    assert status["status"] == "pending"
    assert status["series_ids"] == [site.series_id, site.other_series_id]
    assert status["place_in_queue"] == 1
    assert status["result"] is None
    assert status["requested_by"] == "doctor"


def test_an_unfinished_wait_is_504_for_a_page_that_says_nothing(client: Client, site: Any) -> None:
    answer = post(client, site, f"series/{site.series_id}/segment/")
    body = answer.json()
    assert answer.status_code == 504
    assert (body["success"], body["code"]) == (False, "not_done_in_time")
    assert client.get(body["status_url"], headers=site.as_user()).json()["status"] == "pending"
    assert "x-hold" not in answer.headers


def test_an_unfinished_wait_is_202_for_a_page_that_named_its_patience(
    client: Client, site: Any
) -> None:
    answer = post(client, site, f"series/{site.series_id}/segment/", prefer="wait=0")
    assert answer.status_code == 202
    assert answer["Preference-Applied"] == "wait=0"


def test_the_same_again_is_the_same_request_unless_forced(client: Client, site: Any) -> None:
    first = file(client, site)
    again = file(client, site)
    forced = file(client, site, {"force": True})
    assert again["deduplicated"] is True
    assert again["request_id"] == first["request_id"] != forced["request_id"]


@pytest.mark.parametrize(
    ("query", "lane"),
    [
        ("", "lab"),
        ("use_local=true", "lab"),
        ("use_local=false", "cloud"),
        ("force_gcp=true", "cloud"),
    ],
)
def test_a_request_goes_to_the_lane_that_was_asked_for(
    client: Client, site: Any, query: str, lane: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = f"series/{site.series_id}/segment/?{query}"
    caplog.set_level("INFO", logger="django_queue_app")
    answer = post(client, site, path, prefer="respond-async").json()
    assert answer["lane"] == lane
    routed = [r.getMessage() for r in caplog.records if "routed" in r.getMessage()]
    assert routed == [f"request {answer['request_id']} routed to the {lane} lane"]


def test_contradicting_lanes_are_refused(client: Client, site: Any) -> None:
    path = f"series/{site.series_id}/segment/?use_local=true&force_gcp=true"
    assert post(client, site, path).status_code == 422


def test_request_local_is_always_202_in_the_lab_lane(
    client: Client, site: Any, settings: Any
) -> None:
    settings.USE_LOCAL_INFERENCE = False
    answer = post(client, site, f"series/{site.series_id}/request-local/")
    assert answer.status_code == 202
    assert answer.json()["lane"] == "lab"


def test_instances_stand_for_their_series(client: Client, site: Any) -> None:
    from django_queue_app.pacs import get_pacs

    main, other = (
        get_pacs().describe_series(each).instances[1].id
        for each in (site.series_id, site.other_series_id)
    )
    body = {"sequence_instance_ids": [other, main]}
    answer = post(client, site, f"instances/{main}/segment/", body, prefer="respond-async").json()
    status = get(client, site, f"status/{answer['request_id']}/").json()
    assert status["main_series_id"] == site.series_id
    assert status["series_ids"] == [site.other_series_id, site.series_id]


UNKNOWN = "-".join(["0123abcd"] * 5)


@pytest.mark.parametrize("series", [UNKNOWN, "x", "%00", "..", "💥", "a" * 5000])
def test_an_unknown_series_is_404_and_files_nothing(client: Client, site: Any, series: str) -> None:
    answer = post(client, site, f"series/{series}/segment/")
    assert answer.status_code == 404, answer.content
    assert answer.json()["success"] is False
    assert get(client, site, "requests/").json()["count"] == 0


def test_an_unknown_sequence_is_404_too(client: Client, site: Any) -> None:
    body = {"sequence_series_ids": [site.series_id, UNKNOWN]}
    answer = post(client, site, f"series/{site.series_id}/segment/", body)
    assert (answer.status_code, answer.json()["code"]) == (404, "series_not_found")


def test_a_series_that_is_not_mr_is_refused(client: Client, site: Any) -> None:
    from tests.support.small_series import mr_series, store

    ct = store(mr_series(modality="CT", description="CT"))
    answer = post(client, site, f"series/{ct}/segment/")
    assert (answer.status_code, answer.json()["code"]) == (422, "not_mr")
    listed = {one["id"] for one in get(client, site, "series/").json()["series"]}
    assert listed == {site.series_id, site.other_series_id}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff\xfe{\x00}\x00", 400),
        (b'{"force": "\xff"}', 400),
        (b"[" * 100_000, 400),
        (b'{"priority": NaN}', 400),
        (b'{"priority": ' + b"9" * 5000 + b"}", 400),
        (b'{"priority": 1e400}', 422),
        (b'{"priority": 99999999999999999999}', 422),
        (b'{"priority": 1.5}', 422),
        (b'{"model": "\\u0000"}', 422),
        (b'{"model": "\\ud800"}', 422),
        (b'{"model": "../../etc"}', 422),
        (b'{"model": 7}', 422),
        (b'{"sequence_series_ids": "abc"}', 422),
        (b'{"sequence_series_ids": [1]}', 422),
        (b'{"sequence_series_ids": ["' + b'a","' * 40 + b'b"]}', 422),
        (b"[]", 422),
        (b"7", 422),
        (b'"x"', 422),
        (b'{"force": "maybe"}', 422),
    ],
)
def test_a_bad_body_is_refused_by_name(client: Client, site: Any, body: bytes, status: int) -> None:
    answer = client.post(
        f"{API}/series/{site.series_id}/segment/",
        data=body,
        content_type="application/json",
        headers={**site.as_user(), "prefer": "respond-async"},
    )
    assert answer.status_code == status, answer.content
    assert answer.json()["success"] is False
    assert answer.json()["error"]
    assert answer.json()["code"]


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b'{"unknown": 1, "force": null}'])
def test_a_page_that_sends_little_is_understood(client: Client, site: Any, body: bytes) -> None:
    answer = client.post(
        f"{API}/series/{site.series_id}/segment/",
        data=body,
        content_type="application/json",
        headers={**site.as_user(), "prefer": "respond-async"},
    )
    assert answer.status_code == 202, answer.content


def test_a_body_beyond_the_limit_is_413(client: Client, site: Any, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100
    answer = post(client, site, f"series/{site.series_id}/segment/", {"model": "a" * 200})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("request_id", ["x", NO_REQUEST, "%00", "{" + NO_REQUEST + "}"])
@pytest.mark.parametrize("path", ["status/{}/", "requests/{}/mask.dcm", "requests/{}/report.json"])
def test_an_unknown_request_is_404(client: Client, site: Any, path: str, request_id: str) -> None:
    answer = get(client, site, path.format(request_id))
    assert (answer.status_code, answer.json()["code"]) == (404, "request_not_found")


def test_the_list_is_paged_by_key_newest_first(client: Client, site: Any) -> None:
    filed = [file(client, site, {"force": True})["request_id"] for _ in range(5)]
    seen: list[str] = []
    path = "requests/?limit=2"
    while True:
        page = get(client, site, path).json()
        seen += [one["request_id"] for one in page["requests"]]
        if page["next"] is None:
            break
        path = f"requests/?limit=2&before={page['next']}"
    assert seen == filed[::-1]


def test_the_list_can_be_narrowed(client: Client, site: Any) -> None:
    first = file(client, site)["request_id"]
    post(client, site, f"requests/{first}/cancel/")
    second = file(client, site)["request_id"]
    listed = get(client, site, "requests/?status=pending").json()["requests"]
    assert [one["request_id"] for one in listed] == [second]
    assert get(client, site, "requests/?status=&limit=&before=").json()["count"] == 2
    moment = listed[0]["requested_at"]
    older = client.get(f"{API}/requests/", {"before": moment}, headers=site.as_user()).json()
    assert [one["request_id"] for one in older["requests"]] == [first]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=0", 422),
        ("limit=201", 422),
        ("limit=x", 422),
        ("limit=" + "9" * 5000, 422),
        ("status=done", 422),
        ("before=x", 422),
        ("before=%00", 422),
        ("before=0001-01-01T00:00:00%2B23:59", 422),
        (f"before={NO_REQUEST}", 404),
    ],
)
def test_a_bad_query_is_refused(client: Client, site: Any, query: str, status: int) -> None:
    assert get(client, site, f"requests/?{query}").status_code == status


def test_cancel_and_retry(client: Client, site: Any) -> None:
    first = file(client, site)["request_id"]
    assert post(client, site, f"requests/{first}/retry/").status_code == 409
    assert post(client, site, f"requests/{first}/cancel/").json()["status"] == "cancelled"
    again = post(client, site, f"requests/{first}/cancel/")
    assert (again.status_code, again.json()["code"]) == (409, "wrong_state")
    retried = post(client, site, f"requests/{first}/retry/")
    assert retried.status_code == 202
    assert retried.json()["request_id"] != first
    status = get(client, site, f"status/{retried.json()['request_id']}/").json()
    assert status["retry_of"] == first
    assert get(client, site, f"status/{first}/").json()["status"] == "cancelled"


def test_the_order_of_the_series_may_be_left_to_the_worker(client: Client, site: Any) -> None:
    assert get(client, site, f"status/{file(client, site)['request_id']}/").json()["order"] == (
        "given"
    )
    sorted_later = file(client, site, {"order": "auto"})
    assert not sorted_later["deduplicated"]
    again = file(client, site, {"order": "auto"})
    assert (again["deduplicated"], again["request_id"]) == (True, sorted_later["request_id"])
    status = get(client, site, f"status/{again['request_id']}/").json()
    assert status["order"] == "auto"
    refused = post(client, site, f"series/{site.series_id}/segment/", {"order": "by name"})
    assert refused.status_code == 422


def test_a_file_of_an_unfinished_request_is_409(client: Client, site: Any) -> None:
    filed = file(client, site)["request_id"]
    for name in ("mask.dcm", "mask.nii.gz", "preview.png", "report.json", "report.html"):
        answer = get(client, site, f"requests/{filed}/{name}")
        assert (answer.status_code, answer.json()["code"]) == (409, "not_finished")


def test_frames_of_an_unknown_mask_are_404(client: Client, site: Any) -> None:
    for seg in (UNKNOWN, "x", "%00"):
        assert get(client, site, f"instances/{seg}/frames/").status_code == 404
    assert get(client, site, f"instances/{UNKNOWN}/frames/?segment=0").status_code == 422


@pytest.mark.parametrize("last", ["", "x", "-1", "9" * 40, "999999-inferring-0.5"])
def test_what_a_request_is_now_can_be_read_as_an_event(
    client: Client, site: Any, last: str
) -> None:
    filed = file(client, site)
    answer = get(client, site, f"requests/{filed['request_id']}/events/", **{"Last-Event-ID": last})
    assert answer.status_code == 200
    assert answer["Content-Type"] == "text/event-stream"
    lines = answer.content.decode().splitlines()
    assert lines[0] == "retry: 2000"
    assert lines.count("event: status") == 1
    told = json.loads(lines[-2].removeprefix("data: "))
    assert (told["status"], told["reason"]) == ("pending", "filed")


def test_only_a_signed_in_user_follows_a_known_request(client: Client, site: Any) -> None:
    filed = file(client, site)
    assert client.get(f"{API}/requests/{filed['request_id']}/events/").status_code == 401
    assert get(client, site, f"requests/{uuid4()}/events/").status_code == 404

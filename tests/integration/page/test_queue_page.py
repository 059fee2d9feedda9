"""The queue page: who sees what, how it is searched and paged, what may be done from it."""

from __future__ import annotations

import html
import re
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import connection
from django.db.models import Q
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pydicom.uid import generate_uid

from django_queue_app import services, tokens
from django_queue_app.models import Attempt, SegmentationRequest, Worker, fingerprint_of
from tests.support.queue_history import FAILURES, fill, make_series_id
from tests.support.small_series import mr_instance, mr_series, store

pytestmark = pytest.mark.django_db

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>'",
    "\x00",
    "x" * 5000,
    "%' OR 1=1 --",
    "00000000-0000-0000-0000-000000000000",
    "\ud83e\udde0".encode("utf-16", "surrogatepass").decode("utf-16"),
]


@pytest.fixture
def user() -> Any:
    return get_user_model().objects.create_user("doctor")


@pytest.fixture
def doctor(client: Client, user: Any) -> Client:
    client.force_login(user)
    return client


@pytest.fixture
def operator(doctor: Client, user: Any) -> Client:
    """The doctor, who may also change the order of the queue."""
    user.user_permissions.add(Permission.objects.get(codename="change_segmentationrequest"))
    return doctor


def own_requests(user: Any) -> Q:
    """A rule as a site may write it."""
    return Q(user=user)


@pytest.fixture
def own_only(settings: Any) -> None:
    settings.SEGMENTATION_VISIBLE_REQUESTS = f"{__name__}.own_requests"


@pytest.fixture
def stranger() -> Any:
    return get_user_model().objects.create_user("stranger")


def file(number: int = 0, **values: Any) -> SegmentationRequest:
    """Make a request, one that waits if nothing else is said."""
    main = values.get("main_series_id", make_series_id(number))
    given = {
        "main_series_id": main,
        "series_ids": [main],
        "lane": "lab",
        "fingerprint": fingerprint_of(main, [main, str(number)], ""),
        **values,
    }
    return SegmentationRequest.objects.create(**given)


def file_ended(status: str, *, minutes_ago: float = 1, **values: Any) -> SegmentationRequest:
    """Make one that waited one minute and was worked on for two."""
    finished = timezone.now() - timedelta(minutes=minutes_ago)
    started = finished - timedelta(minutes=2)
    done = {"result": {}, "result_lease_id": uuid.uuid4()} if status == "completed" else {}
    return file(
        status=status,
        created_at=started - timedelta(minutes=1),
        started_at=started,
        finished_at=finished,
        **done,
        **values,
    )


def give_work(request: SegmentationRequest, name: str) -> None:
    """Let a new worker be at work on a request."""
    token = tokens.create(name=name, kind="worker", lane="lab")[0]
    worker = Worker.objects.create(token=token, name=name, lane="lab")
    lease, soon = uuid.uuid4(), timezone.now() + timedelta(minutes=5)
    held = {"lease_id": lease, "lease_expires_at": soon, "deadline_at": soon}
    SegmentationRequest.objects.filter(pk=request.pk).update(status="processing", **held)
    Attempt.objects.create(
        request=request, number=1, lease_id=lease, token=token, worker=worker, worker_name=name
    )


def show(client: Client, query: str = "", **parameters: Any) -> str:
    answer = client.get(f"/queue/?{query}", parameters or None)
    assert answer.status_code == 200
    return answer.content.decode()


def rows_of(shown: str) -> list[str]:
    """Ids of the list's rows, from the top."""
    return re.findall(r'<a href="/#([0-9a-f-]{36})" aria-label="Open ', shown)


def link(shown: str, words: str) -> str | None:
    found = re.search(rf'<a href="\?([^"]*)">{words}</a>', shown)
    return html.unescape(found[1]) if found else None


def act(client: Client, request: Any, verb: str, **values: Any) -> Any:
    pk = getattr(request, "pk", request)
    return client.post(f"/queue/{pk}/{verb}/", values)


def told(client: Client, request: Any, verb: str) -> tuple[str, str]:
    """Do it, and give what the page then says: its level and its sentence."""
    answer = act(client, request, verb)
    assert (answer.status_code, answer["Location"]) == (302, "/queue/")
    return message_of(show(client))


def message_of(shown: str) -> tuple[str, str]:
    [(level, sentence)] = re.findall(r'<p class="message (\w+)" role="\w+">(.*?)</p>', shown)
    return level, html.unescape(sentence)


# --- who sees what -------------------------------------------------------------------------------


def test_who_is_not_signed_in_sees_and_changes_nothing(client: Client) -> None:
    request = file()
    assert (
        client.get("/queue/?status=failed")["Location"] == "/login/?next=/queue/%3Fstatus%3Dfailed"
    )
    assert act(client, request, "cancel")["Location"].startswith("/login/")
    request.refresh_from_db()
    assert request.status == "pending"


def test_who_signs_in_after_a_lost_session_is_not_led_to_an_address_that_only_takes_post(
    client: Client, user: Any
) -> None:
    user.set_password("a long enough one")
    user.save()
    way_in = act(client, file(), "cancel")["Location"]
    answer = client.post(
        way_in, {"username": "doctor", "password": "a long enough one"}, follow=True
    )
    assert answer.status_code == 200


def test_a_department_sees_all_its_requests_with_patient_and_series(doctor: Client) -> None:
    series_id = store(mr_series(description="T1 axial"))
    request = file(main_series_id=series_id)
    shown = show(doctor)
    assert rows_of(shown) == [str(request.pk)]
    assert "Phantom Api" in shown
    assert "P-1 · T1 axial" in shown


@pytest.mark.usefixtures("own_only")
@pytest.mark.parametrize("query", ["", "fragment=1", "text=lab-pc", "status=active"])
def test_a_request_of_others_is_neither_listed_nor_named(
    doctor: Client, user: Any, stranger: Any, query: str
) -> None:
    foreign_series = store(mr_series(description="FOREIGN SERIES"))
    foreign = file(1, main_series_id=foreign_series, user=stranger, processed_by="lab-pc")
    own = file(2, user=user, processed_by="lab-pc")
    give_work(foreign, "lab-pc")
    shown = show(doctor, query)
    assert rows_of(shown) == [str(own.pk)]
    assert "at work" in shown
    for secret in (str(foreign.pk)[:8], foreign_series[:8], "FOREIGN SERIES", "Phantom"):
        assert secret not in shown


@pytest.mark.usefixtures("own_only")
def test_a_worker_links_to_a_request_that_the_reader_may_see(doctor: Client, user: Any) -> None:
    own = file(user=user)
    give_work(own, "lab-pc")
    assert show(doctor).count(f'<a href="/#{own.pk}"') == 2


@pytest.mark.usefixtures("own_only")
def test_a_place_in_the_list_of_others_tells_nothing(
    doctor: Client, user: Any, stranger: Any
) -> None:
    file(1, user=user)
    foreign = file(2, user=stranger)
    file(3, user=user)
    assert rows_of(show(doctor, before=foreign.pk)) == rows_of(show(doctor))


@pytest.mark.usefixtures("own_only")
def test_charts_count_what_the_reader_may_see(doctor: Client, user: Any, stranger: Any) -> None:
    file_ended("completed", user=user)
    for _ in range(3):
        file_ended("completed", user=stranger)
    assert "at most 1 in one bar" in show(doctor)


# --- searching and paging ------------------------------------------------------------------------


def test_filters_keep_what_is_asked_for(doctor: Client) -> None:
    waits = file(1, requested_by="dr.kim")
    cloud = file(2, lane="cloud", model="brats")
    failed = file_ended("failed", failure_code="missing_slices", processed_by="lab-pc-1")
    for parameters, expected in [
        ({"status": "pending"}, {waits, cloud}),
        ({"status": "failed"}, {failed}),
        ({"status": "active"}, {waits, cloud}),
        ({"lane": "cloud"}, {cloud}),
        ({"lane": "lab", "status": "active"}, {waits}),
        ({"text": "DR.KIM"}, {waits}),
        ({"text": " brats "}, {cloud}),
        ({"text": "missing_sl"}, {failed}),
        ({"text": "lab-pc"}, {failed}),
        ({"text": str(cloud.pk)[:8]}, {cloud}),
        ({"text": str(failed.pk)}, {failed}),
        ({"text": "nothing like it"}, set()),
    ]:
        shown = show(doctor, **parameters)
        assert set(rows_of(shown)) == {str(one.pk) for one in expected}, parameters
        assert ("No request is like that" in shown) is (not expected), parameters


def test_a_filter_is_shown_as_it_was_chosen(doctor: Client) -> None:
    shown = show(doctor, status="failed", lane="cloud", text='a "b" & c')
    assert '<option value="failed" selected>' in shown
    assert '<option value="cloud" selected>' in shown
    assert 'value="a &quot;b&quot; &amp; c"' in shown
    assert "Show all" in shown
    assert "Show all" not in show(doctor)


@pytest.mark.parametrize("is_same_moment", [False, True])
def test_paging_loses_no_row_and_shows_none_twice(doctor: Client, is_same_moment: bool) -> None:
    fill(ended=55)
    if is_same_moment:
        SegmentationRequest.objects.update(created_at=timezone.now())
    pages, query = [], ""
    while query is not None:
        shown = show(doctor, query)
        pages.append(rows_of(shown))
        assert (link(shown, "Newest requests") is None) == (len(pages) == 1)
        query = link(shown, "Older requests")
    newest_first = SegmentationRequest.objects.order_by("-created_at", "-id")
    assert [pk for one in pages for pk in one] == [str(one.pk) for one in newest_first]
    assert [len(one) for one in pages] == [25, 25, 11]


def test_paging_keeps_the_filter_and_newest_leads_back(doctor: Client) -> None:
    for number in range(60):
        file(number, lane="cloud" if number % 2 else "lab", requested_by="a&b")
    first = show(doctor, lane="cloud", text="a&b")
    second = show(doctor, link(first, "Older requests") or "")
    assert (len(rows_of(first)), len(rows_of(second))) == (25, 5)
    assert rows_of(show(doctor, link(second, "Newest requests") or "")) == rows_of(first)
    assert rows_of(show(doctor, link(second, "Look again") or "")) == rows_of(second)


def test_whoever_pages_beyond_the_end_is_not_told_that_the_queue_is_empty(doctor: Client) -> None:
    shown = show(doctor, before=file().pk)
    assert "Nobody has asked" not in shown
    assert link(shown, "Newest requests") == ""


def test_the_fragment_is_the_part_that_changes(doctor: Client) -> None:
    fill(ended=3)
    shown = show(doctor, fragment=1)
    assert shown.count("data-live") == 2
    assert rows_of(shown) == rows_of(show(doctor))
    for other in ("<html", '<form method="get"', "<svg", "fragment"):
        assert other not in shown


@pytest.mark.parametrize("name", ["before", "span", "status", "lane", "text", "fragment"])
def test_hostile_parameters_do_no_harm(doctor: Client, name: str) -> None:
    file_ended("failed", failure_code="bad_spacing")
    for text in HOSTILE:
        shown = show(doctor, **{name: text})
        for evil in ("<script>alert", "<img", "\x00", "x" * 101):
            assert evil not in shown, text


def test_text_with_a_nul_finds_what_it_finds_without(doctor: Client) -> None:
    """PostgreSQL takes no NUL in a text at all."""
    request = file(requested_by="dr.kim")
    shown = show(doctor, text="dr.\x00kim")
    assert rows_of(shown) == [str(request.pk)]


def test_what_workers_and_users_wrote_is_shown_as_text(doctor: Client) -> None:
    evil = "<script>alert(1)</script>"
    file_ended("failed", failure_code=evil, failure_message=evil, requested_by=evil, model=evil)
    give_work(file(1), evil)
    Worker.objects.update(device=evil, version=evil, models_offered=[evil])
    shown = show(doctor)
    assert "<script>alert" not in shown
    assert shown.count("&lt;script&gt;alert") == 8


# --- what may be done ----------------------------------------------------------------------------


def test_cancel_ends_a_waiting_and_a_running_request(doctor: Client) -> None:
    waits, runs = file(1), file(2)
    give_work(runs, "lab-pc")
    for one in (waits, runs):
        assert told(doctor, one, "cancel") == ("success", "The analysis was cancelled.")
        one.refresh_from_db()
        assert one.status == "cancelled"
        assert one.events.get().actor == "doctor"


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_retry_files_the_same_once_more(doctor: Client, user: Any, status: str) -> None:
    old = file_ended(status, priority=30)
    assert told(doctor, old, "retry")[0] == "success"
    again = SegmentationRequest.objects.get(retry_of=old)
    assert (again.status, again.priority, again.user) == ("pending", 30, user)
    assert again.series_ids == old.series_ids


def test_a_retry_of_what_is_under_way_says_so_and_files_nothing(doctor: Client) -> None:
    old = file_ended("failed")
    assert told(doctor, old, "retry") == ("success", "The same series were filed once more.")
    level, sentence = told(doctor, old, "retry")
    assert level == "info"
    assert "already" in sentence
    assert SegmentationRequest.objects.count() == 2


def test_earlier_and_later_move_a_waiting_request_within_bounds(operator: Client) -> None:
    request = file(priority=95)
    for verb, priority in [("earlier", 100), ("earlier", 100), ("later", 90), ("later", 80)]:
        assert told(operator, request, verb) == ("success", f"The priority is {priority} now.")
        request.refresh_from_db()
        assert request.priority == priority


def test_who_may_not_operate_the_queue_is_told_so(doctor: Client) -> None:
    request = file()
    assert "Earlier" not in show(doctor)
    for verb in ("earlier", "later"):
        assert told(doctor, request, verb) == (
            "error",
            "Your account may not change the order of the queue.",
        )
    request.refresh_from_db()
    assert request.priority == 0


def test_verbs_are_offered_where_they_work(operator: Client) -> None:
    running = file(1)
    give_work(running, "lab-pc")
    offered = {
        file(2): {"cancel", "earlier", "later"},
        running: {"cancel"},
        file_ended("failed"): {"retry"},
        file_ended("cancelled"): {"retry"},
        file_ended("completed"): set(),
    }
    shown = show(operator)
    for request, verbs in offered.items():
        assert set(re.findall(rf'action="/queue/{request.pk}/(\w+)/"', shown)) == verbs


@pytest.mark.parametrize(
    ("status", "verb", "sentence"),
    [
        ("completed", "cancel", "Only a waiting or running request can be cancelled"),
        ("cancelled", "cancel", "Only a waiting or running request can be cancelled"),
        ("failed", "cancel", "Only a waiting or running request can be cancelled"),
        ("completed", "retry", "Only a failed or cancelled request can be tried again"),
        ("failed", "earlier", "The request's state does not allow this"),
        ("completed", "later", "The request's state does not allow this"),
    ],
)
def test_what_the_state_no_longer_allows_is_refused_in_a_sentence(
    operator: Client, status: str, verb: str, sentence: str
) -> None:
    request = file_ended(status)
    before = SegmentationRequest.objects.values().get()
    level, said = told(operator, request, verb)
    assert level == "error"
    assert said.startswith(sentence)
    assert SegmentationRequest.objects.values().get() == before


def test_who_presses_a_button_that_has_become_stale_is_told(operator: Client) -> None:
    request = file()
    assert f"/queue/{request.pk}/earlier/" in show(operator)
    give_work(request, "lab-pc")
    assert told(operator, request, "earlier")[0] == "error"
    assert told(operator, request, "retry")[0] == "error"
    services.cancel(request_id=request.pk, actor="somebody else")
    assert told(operator, request, "cancel")[0] == "error"
    assert request.events.count() == 1


@pytest.mark.usefixtures("own_only")
@pytest.mark.parametrize("verb", ["cancel", "retry", "earlier", "later"])
def test_a_request_of_others_is_refused_as_one_that_does_not_exist(
    operator: Client, stranger: Any, verb: str
) -> None:
    foreign = file_ended("failed", user=stranger) if verb == "retry" else file(user=stranger)
    before = SegmentationRequest.objects.values().get()
    missing = "There is no segmentation request with this id."
    for pk in (foreign.pk, uuid.uuid4(), "-" * 36):
        assert told(operator, pk, verb) == ("error", missing)
    assert SegmentationRequest.objects.values().get() == before


def test_only_a_post_changes_something(operator: Client) -> None:
    request = file()
    for verb in ("cancel", "retry", "earlier", "later"):
        assert operator.get(f"/queue/{request.pk}/{verb}/").status_code == 405
    assert operator.post("/queue/").status_code == 405
    assert operator.post(f"/queue/{request.pk}/delete/").status_code == 404
    request.refresh_from_db()
    assert (request.status, request.priority) == ("pending", 0)


@pytest.mark.parametrize("query", ["", "fragment=1"])
def test_a_post_needs_the_token_of_the_page(user: Any, query: str) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(user)
    request = file()
    assert act(strict, request, "cancel").status_code == 403
    request.refresh_from_db()
    assert request.status == "pending"
    shown = show(strict, query).partition(f'action="/queue/{request.pk}/cancel/"')[2]
    [proof] = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', shown)[:1]
    assert act(strict, request, "cancel", csrfmiddlewaretoken=proof).status_code == 302
    request.refresh_from_db()
    assert request.status == "cancelled"


def test_an_action_leads_back_to_where_it_was_taken(doctor: Client) -> None:
    request = file(requested_by="a&b")
    shown = show(doctor, status="pending", text="a&b")
    [target] = re.findall(r'name="next" value="(/queue/[^"]+)"', shown)
    target = html.unescape(target)
    assert act(doctor, request, "cancel", next=target)["Location"] == target
    assert rows_of(show(doctor, target.partition("?")[2])) == []


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "/\n/evil.example/",
        "\\\\evil.example",
        "javascript:alert(1)",
        "queue",
        "",
    ],
)
def test_an_action_leads_to_no_other_site(doctor: Client, target: str) -> None:
    assert act(doctor, file(), "cancel", next=target)["Location"] == "/queue/"


# --- what is shown -------------------------------------------------------------------------------


def test_a_failure_is_told_in_words_and_by_the_workers_sentence(doctor: Client) -> None:
    for code, message in FAILURES:
        file_ended("failed", failure_code=code, failure_message=message)
    file_ended("failed", failure_code="something_new", failure_message="It broke.")
    shown = html.unescape(show(doctor))
    titles = ["Slices are missing", "The worker's memory was not enough"]
    titles += ["The worker was not heard of any more", "something_new"]
    sentences = [*(message for _, message in FAILURES), "It broke."]
    for title, sentence in zip(titles, sentences, strict=True):
        assert f'<strong class="problem">{title}</strong> {sentence}</span>' in shown


def test_an_empty_queue_says_so_and_what_to_do(doctor: Client) -> None:
    shown = show(doctor)
    assert "Nobody has asked for an analysis yet." in shown
    assert "No worker has called in the last seven days." in shown
    assert "Nothing ended in this time." in shown
    assert "<svg" not in shown
    assert "No request is like that." in show(doctor, status="failed")


def test_a_busy_queue_shows_lanes_workers_progress_and_waits(doctor: Client) -> None:
    fill(ended=10)
    shown = show(doctor)
    figures = re.findall(r"<dd>(.*?)</dd>", shown)
    assert figures[:2] == ["5", "1"]
    assert figures[2].startswith("3 min 2")
    assert figures[3:] == ["1", "0", "0", "—", "1"]
    assert shown.count("online, waiting for work") == 1  # cloud-1
    assert shown.count("not online") == 1  # lab-pc-2
    assert shown.count("37 %") == 2
    assert "attempt 2 of" in shown
    assert "priority +10" in shown


def test_a_lane_without_a_worker_is_named_as_a_problem(doctor: Client) -> None:
    file(lane="cloud")
    assert "1 request waits in the cloud lane and no worker" in show(doctor)


def test_a_revoked_or_forgotten_worker_is_not_shown(doctor: Client) -> None:
    give_work(file(), "lab-pc")
    assert "lab-pc" in show(doctor)
    Worker.objects.update(last_seen_at=timezone.now() - timedelta(days=8))
    assert "lab-pc" not in show(doctor)
    Worker.objects.update(last_seen_at=timezone.now())
    tokens.revoke(Worker.objects.get().token)
    assert "lab-pc" not in show(doctor)


def bars_of(picture: str) -> list[tuple[str, float, float]]:
    """Kind, upper edge and height of each bar."""
    found = re.findall(r'<rect class="(\w+)" x="[^"]+" y="([^"]+)".*?height="([^"]+)"', picture)
    return [(kind, float(y), float(height)) for kind, y, height in found]


def test_charts_have_bars_and_a_label_that_says_what_they_show(doctor: Client) -> None:
    for status in ("completed", "completed", "completed", "failed"):
        file_ended(status)
    charts = re.findall(r'<svg [^>]*role="img" aria-label="([^"]*)">(.*?)</svg>', show(doctor))
    assert [label for label, _ in charts] == [
        "Ended analyses: at most 4 in one bar.",
        "Median time: at most 3 min 0 s in one bar.",
    ]
    ended, taken = (bars_of(picture) for _, picture in charts)
    assert ended == [("completed", 25.0, 75.0), ("failed", 0.0, 25.0)]
    assert taken == [("wait_s", 66.67, 33.33), ("work_s", 0.0, 66.67)]


def test_a_chart_of_failures_alone_claims_no_time(doctor: Client) -> None:
    file_ended("failed")
    shown = show(doctor)
    assert "at most 1 in one bar" in shown
    assert "Median time: at most 0 s in one bar." in shown


def test_another_span_keeps_the_filter_and_another_filter_the_span(doctor: Client) -> None:
    shown = show(doctor, status="failed", span="week")
    assert '<a href="?status=failed&amp;span=month#history-title">' in shown
    assert '<input type="hidden" name="span" value="week">' in shown
    assert '<a href="?status=failed&amp;span=week">' in shown  # look again


def test_the_span_of_the_charts_is_chosen(doctor: Client) -> None:
    file_ended("completed", minutes_ago=3 * 24 * 60)
    for span, has_bars in [("day", False), ("week", True), ("month", True), ("century", False)]:
        shown = show(doctor, span=span)
        assert ("<svg" in shown) is has_bars
        current = span if span != "century" else "day"
        assert f'<a href="?span={current}#history-title" aria-current="true">' in shown


def test_the_page_is_kept_by_no_cache_and_runs_nothing_of_others(doctor: Client) -> None:
    answer = doctor.get("/queue/?fragment=1")
    assert "no-store" in answer["Cache-Control"]
    assert "script-src 'self'" in answer["Content-Security-Policy"]


def _count_queries(client: Client, query: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        show(client, query)
    return len(captured)


def test_more_rows_and_workers_need_no_more_queries(doctor: Client) -> None:
    counts = []
    for first, stop in ((0, 5), (5, 25)):
        for number in range(first, stop):
            one = mr_instance(0, SeriesInstanceUID=generate_uid(), StudyInstanceUID=generate_uid())
            request = file(number, main_series_id=store([one]))
            if number % 2:
                give_work(request, f"pc-{number}")
        with CaptureQueriesContext(connection) as captured:
            shown = show(doctor)
        counts.append(len(captured))
        assert shown.count('class="patient"') == stop
    assert counts[0] == counts[1]


def test_the_history_that_tests_fill_in_is_of_every_kind() -> None:
    fill(ended=50)
    assert set(SegmentationRequest.objects.values_list("status", flat=True)) == {
        "pending",
        "processing",
        "completed",
        "failed",
        "cancelled",
    }

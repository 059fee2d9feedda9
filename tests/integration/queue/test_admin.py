from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client

from django_queue_app import tokens
from django_queue_app.models import SegmentationRequest
from tests.support.queue_driver import Queue

QUEUE = "/admin/django_queue_app/segmentationrequest/"
TOKENS = "/admin/django_queue_app/apitoken/"


@pytest.fixture
def client(db: None) -> Client:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("admin"))
    return client


def act(client: Client, page: str, action: str, rows: Iterable[Any]) -> str:
    keys = [str(row.pk) for row in rows]
    answer = client.post(page, {"action": action, "_selected_action": keys}, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


def test_every_page_opens(client: Client, queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    job.upload()
    job.complete()
    for table in ("segmentationrequest", "apitoken", "worker", "event"):
        assert client.get(f"/admin/django_queue_app/{table}/").status_code == 200
    answer = client.get(f"{QUEUE}{job.request_id}/change/")
    assert answer.status_code == 200
    assert "claimed" in answer.content.decode()
    token_page = client.get(f"{TOKENS}{job.token.pk}/change/").content.decode()
    assert job.token.digest not in token_page


def test_nothing_can_be_added_changed_or_deleted(client: Client, queue: Queue) -> None:
    request = queue.file()
    assert client.get(f"{QUEUE}add/").status_code == 403
    assert client.get(f"{QUEUE}{request.pk}/delete/").status_code == 403
    assert client.post(f"{QUEUE}{request.pk}/change/", {"priority": 99}).status_code == 403
    assert "delete_selected" not in client.get(QUEUE).content.decode()
    assert queue.read(request.pk).priority == 0


def test_actions_go_through_the_services(client: Client, queue: Queue) -> None:
    request = queue.file()
    act(client, QUEUE, "go_earlier", [request])
    act(client, QUEUE, "go_earlier", [request])
    act(client, QUEUE, "go_later", [request])
    assert queue.read(request.pk).priority == 10
    act(client, QUEUE, "cancel", [request])
    assert queue.read(request.pk).status == "cancelled"
    assert request.events.order_by("id").last().actor == "admin"
    act(client, QUEUE, "retry", [request])
    assert SegmentationRequest.objects.get(retry_of=request).status == "pending"


def test_a_refused_action_says_why(client: Client, queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    job.complete()
    assert "Only a waiting or running request" in act(client, QUEUE, "cancel", [job.request])


def test_a_token_can_be_revoked(client: Client, queue: Queue) -> None:
    token, secret = tokens.create(name="lab", kind="worker", lane="lab")
    act(client, TOKENS, "revoke", [token])
    assert tokens.authenticate(secret) is None


def test_who_may_only_look_cannot_act(queue: Queue) -> None:
    request = queue.file()
    user = get_user_model().objects.create_user("guest", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename="view_segmentationrequest"))
    client = Client()
    client.force_login(user)
    assert "go_earlier" not in client.get(QUEUE).content.decode()
    act(client, QUEUE, "cancel", [request])
    assert queue.read(request.pk).status == "pending"

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest
from django.apps import apps
from django.contrib.admin import site
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.test import Client
from django.utils.translation import override

from django_queue_app import tokens
from django_queue_app.models import SegmentationRequest
from tests.support.queue_driver import Queue

HANGUL = re.compile("[가-힣]")
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


def test_every_table_and_column_has_a_name_in_korean() -> None:
    for model in apps.get_app_config("django_queue_app").get_models():
        if model not in site._registry and model._meta.model_name not in ("attempt", "artifact"):
            continue
        excluded = {"digest"}  # never shown
        fields = [field for field in model._meta.fields if field.name not in excluded]
        shown = [field for field in fields if field.name != "id" or not field.auto_created]
        with override("ko"):
            names = {field.name: str(field.verbose_name) for field in shown}
            names["table"] = str(model._meta.verbose_name_plural)
        untranslated = {key: name for key, name in names.items() if not HANGUL.search(name)}
        assert set(untranslated.values()) <= {"ID", "SHA-256"}, model
        assert HANGUL.search(model._meta.verbose_name_raw) is None  # permissions are named by it


@pytest.mark.django_db
def test_the_names_change_no_permission_and_no_migration() -> None:
    permission = Permission.objects.get(codename="change_apitoken")
    assert permission.name == "Can change api token"
    call_command("makemigrations", "--check", "--dry-run", "django_queue_app", verbosity=0)


def test_the_administration_is_in_korean(client: Client, queue: Queue) -> None:
    queue.file()
    job = queue.take(queue.token())
    job.fail(code="truncated", is_retryable=False)
    korean = {"Accept-Language": "ko"}
    listed = client.get(QUEUE, headers=korean).content.decode()
    assert "분할 요청" in listed
    assert "처리한 워커" in listed
    assert "<h1>분할 요청</h1>" in listed
    assert ">데이터가 잘린 영상이 있습니다</a>" in listed, "a filter by the failure's words"
    page = client.get(f"{QUEUE}{job.request_id}/change/", headers=korean).content.decode()
    for words in ("실패 원인", "데이터가 잘린 영상이 있습니다", "워커가 가져감", "이후 상태"):
        assert words in page, words

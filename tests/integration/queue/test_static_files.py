from __future__ import annotations

import pytest
from django.test import AsyncClient, Client

CSS = "/static/admin/css/base.css"


def test_static_files_are_served_without_collecting_them() -> None:
    answer = Client().get(CSS)
    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("text/css")
    assert int(answer["Content-Length"]) == len(answer.content) > 1000


@pytest.mark.asyncio
async def test_under_asgi_they_are_served_without_a_warning() -> None:
    answer = await AsyncClient().get(CSS)
    assert answer.status_code == 200
    assert not answer.streaming


def test_an_unchanged_file_and_a_part_of_one_are_answered_as_such() -> None:
    client = Client()
    whole = client.get(CSS)
    unchanged = client.get(CSS, headers={"If-Modified-Since": whole["Last-Modified"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    part = client.get(CSS, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert client.head(CSS).content == b""


@pytest.mark.parametrize("path", ["/static/../settings.py", "/static/", "/static/nothing.css"])
def test_nothing_else_is_served(path: str) -> None:
    assert Client().get(path).status_code == 404

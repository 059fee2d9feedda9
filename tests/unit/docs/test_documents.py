"""The documents name every route, setting and command, and every link in them leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

REPOSITORY = Path(__file__).resolve().parents[3]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "README.ko.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]


def _text(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


@pytest.mark.django_db
def test_every_route_of_the_api_is_documented(client: Client) -> None:
    document: dict[str, Any] = client.get("/api/mri/openapi.json").json()
    told = _text("docs/api.md")
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in told


def test_no_route_is_documented_that_is_not_there(client: Client) -> None:
    known = client.get("/api/mri/openapi.json").json()["paths"]
    for method, path in re.findall(r"^\| `(GET|POST|PUT) (/api\S+)`", _text("docs/api.md"), re.M):
        assert method.lower() in known[path]


def test_every_setting_of_the_site_is_documented() -> None:
    read = re.findall(
        r"(?:environ\.get|_flag|_number|_words)\(\s*\"([A-Z_]+)\"",
        _text("reference_site/settings.py"),
    )
    told = _text("docs/operating.md")
    assert len(read) > 10
    assert [name for name in read if f"`{name}`" not in told] == []


def test_every_environment_variable_of_the_worker_is_documented() -> None:
    told = _text("config.yaml")
    for name in ("DJANGO_API_URL", "WORKER_TOKEN", "DJANGO_API_AUTH", "POLL_INTERVAL", "DEVICE"):
        assert name in told


def test_every_exit_code_is_documented() -> None:
    codes = re.findall(r"^EXIT_\w+ = (\d+)", _text("worker/core/errors.py"), re.M)
    told = _text("docs/operating.md")
    assert [code for code in codes if f"\n| {code} |" not in told] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_every_decision_is_listed() -> None:
    index = _text("docs/decisions/README.md")
    for path in (REPOSITORY / "docs" / "decisions").glob("0*.md"):
        assert f"]({path.name})" in index

"""The pages in Korean: every marked text is translated, and the compiled catalog is up to date.

To bring the catalog up to date, in `django_queue_app/`: `django-admin makemessages -l ko
--add-location file --no-wrap`, translate, and `django-admin compilemessages -l ko`.
"""

from __future__ import annotations

import ast
import gettext
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from django.test import Client
from django.utils import translation
from django.utils.translation.template import templatize

import django_queue_app

APP = Path(django_queue_app.__file__).parent
CATALOG = APP / "locale" / "ko" / "LC_MESSAGES" / "django.po"

# Which argument is the context and which the singular, by the function's name.
MARKS = {
    **dict.fromkeys(("_", "gettext", "gettext_lazy", "gettext_noop"), (None, 0)),
    **dict.fromkeys(("ngettext", "ngettext_lazy"), (None, 0)),
    **dict.fromkeys(("pgettext", "pgettext_lazy", "npgettext", "npgettext_lazy"), (0, 1)),
}
STRING = r"""u?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
CALL = re.compile(rf"\b({'|'.join(MARKS)})\(\s*({STRING})(?:\s*,\s*({STRING}))?")
PLACEHOLDER = re.compile(r"%\(\w+\)[a-z]|%%|\{\w*\}")
CONTEXT_END = "\x04"


@dataclass
class Entry:
    """One text of the catalog, as `.po` files write it."""

    comments: list[str] = field(default_factory=list)
    parts: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        context = self.parts.get("msgctxt")
        return (context + CONTEXT_END if context is not None else "") + self.parts["msgid"]

    @property
    def texts(self) -> list[str]:
        return [text for name, text in self.parts.items() if name.startswith("msgstr")]


def read_catalog() -> list[Entry]:
    """Read the `.po` file; the header is the first entry."""
    return [read_entry(block) for block in CATALOG.read_text(encoding="utf-8").split("\n\n")]


def read_entry(block: str) -> Entry:
    entry, name = Entry(), ""
    for line in block.strip().splitlines():
        if line.startswith("#"):
            entry.comments.append(line)
            continue
        if not line.startswith('"'):
            name, line = line.split(" ", 1)
        entry.parts[name] = entry.parts.get(name, "") + ast.literal_eval(line)
    return entry


ENTRIES = read_catalog()[1:]
BY_KEY = {entry.key: entry for entry in ENTRIES}


def marked_in_python(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        if node.func.id not in MARKS:
            continue
        context, singular = MARKS[node.func.id]
        text = ast.literal_eval(node.args[singular])  # what is put together can't be translated
        yield text if context is None else ast.literal_eval(node.args[context]) + CONTEXT_END + text


def marked_in_template(path: Path) -> Iterator[str]:
    for name, *strings in CALL.findall(templatize(path.read_text(encoding="utf-8"))):
        context, singular = MARKS[name]
        text = ast.literal_eval(strings[singular])
        yield text if context is None else ast.literal_eval(strings[context]) + CONTEXT_END + text


def sources() -> list[Path]:
    scripts = [path for path in APP.rglob("*.py") if "migrations" not in path.parts]
    return sorted([*scripts, *APP.glob("templates/**/*.html")])


def test_the_catalog_holds_each_text_once() -> None:
    counts = Counter(entry.key for entry in ENTRIES)
    assert [key for key, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.key[:40])
def test_a_text_is_translated_and_keeps_its_placeholders(entry: Entry) -> None:
    marks = " ".join(entry.comments)
    assert "fuzzy" not in marks
    assert "#~" not in marks
    assert len(entry.texts) == 1  # Korean has no plural form
    wanted = Counter(PLACEHOLDER.findall(entry.parts["msgid"]))
    for text in entry.texts:
        assert text.strip()
        assert Counter(PLACEHOLDER.findall(text)) == wanted


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(APP)))
def test_what_a_source_marks_is_in_the_catalog(path: Path) -> None:
    find = marked_in_template if path.suffix == ".html" else marked_in_python
    assert [text for text in find(path) if text not in BY_KEY] == []


def test_the_sources_are_read_at_all() -> None:
    scripts = set(marked_in_python(APP / "pages" / "words.py"))
    assert {"Waiting for a worker", "{percent} %"} <= scripts
    templates = APP / "templates" / "django_queue_app"
    assert "sign in\x04User" in set(marked_in_template(templates / "login.html"))
    requests = set(marked_in_template(templates / "queue_requests.html"))
    assert {"Try again", "waited %(time)s", "the worker's default model"} <= requests
    assert "%(slices)s slice" in set(marked_in_template(templates / "study.html"))


def test_the_compiled_catalog_is_that_of_the_source() -> None:
    with CATALOG.with_suffix(".mo").open("rb") as file:
        compiled = dict(gettext.GNUTranslations(file)._catalog)
    assert "nplurals=1" in compiled.pop("")
    wanted = {(e.key, 0) if "msgid_plural" in e.parts else e.key: e.texts[0] for e in ENTRIES}
    assert compiled == wanted


def test_no_other_app_speaks_instead_of_this_one() -> None:
    """Django joins the apps' catalogs, and an app that is installed earlier wins: see `context`."""
    with translation.override("ko"):
        shown = {entry.key: say(entry) for entry in ENTRIES}
    assert shown == {entry.key: entry.texts[0] for entry in ENTRIES}


def test_a_page_is_in_korean_and_names_each_language_in_its_own_words(client: Client) -> None:
    page = client.get("/login/", headers={"Accept-Language": "ko"}).content.decode()
    assert '<html lang="ko">' in page
    assert "사용자 이름" in page
    assert ">English</button>" in page
    assert ">한국어</button>" in page


def say(entry: Entry) -> str:
    parts = entry.parts
    if "msgid_plural" in parts:
        return translation.ngettext(parts["msgid"], parts["msgid_plural"], 2)
    if "msgctxt" in parts:
        return translation.pgettext(parts["msgctxt"], parts["msgid"])
    return translation.gettext(parts["msgid"])

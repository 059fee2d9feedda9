"""The worker in Korean: every sentence that a person may read is in the catalogue.

To bring it up to date: write what a test names as missing into
`worker/locale/ko/LC_MESSAGES/worker.po`, with its values as `{0}`, `{1}`, and run
`msgfmt -o worker.mo worker.po` there.
"""

from __future__ import annotations

import ast
import gettext
import logging
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from inspect import cleandoc
from pathlib import Path

import click
import pytest

import launcher
import worker
from worker import language
from worker.cache_cli import cache as cache_group
from worker.cli import cli
from worker.core.errors import SeriesInvalid
from worker.core.job import STAGES
from worker.core.series import order_slices
from worker.language import in_korean, with_particles
from worker.log import EventFormatter, SpokenFormatter
from worker.models_cli import models

ROOT = Path(worker.__file__).parent
CATALOGUE = ROOT / "locale" / "ko" / "LC_MESSAGES" / "worker.po"
# Nothing of these is said on the console or to the page: pictures, the bilingual report, a format.
NOT_SPOKEN = {
    *("adapters/preview.py", "adapters/preview_planes.py", "adapters/preview_text.py"),
    *("adapters/report_page.py", "adapters/dicom_seg.py", "language.py", "metrics.py", "ports.py"),
}
# Raised for whoever calls a function wrongly, never for the person at the screen.
FOR_PROGRAMMERS = {"ValueError", "TypeError", "RuntimeError", "AssertionError", "KeyError"}
# Read by Prometheus, by a library, by a shell, or written into files.
NOT_SENTENCES = re.compile(
    r"%\(|^python -m |^\w+ \w+ated name|^inverse has|^tracking |^Bearer |^rigid, |^back ground$"
    r"|^ +(path|label|category|type|anatomic_region): |^no way from |task\.percentage"
    r"|^an affine |^\{0\} is no JSON|^every slice|^expected \{0\} axes|^overlapping masks"
    r"|^\{0\} masks but|^end of output$|^\(no\||^(CUDA|cuDNN) error$|^device-side|^out of memory$"
    r"|^bad allocation$|^no content type$|^Put it into config"
)
WORDS = re.compile(r"[a-z]{2,}[^a-z]* [^a-z]*[a-z]{2,}", re.IGNORECASE)
HOLE = re.compile(r"\{[^{}\s]*\}")
CONTEXT_END = "\x04"


@cache
def entries() -> dict[str, tuple[str, str]]:
    """Read the `.po` file: English (with its context) to its plural and its Korean."""
    found = {}
    for block in CATALOGUE.read_text(encoding="utf-8").split("\n\n")[1:]:
        parts: dict[str, str] = {}
        for line in block.strip().splitlines():
            assert not line.startswith("#~"), "an entry that nothing uses"
            assert "fuzzy" not in line
            if not line.startswith(("#", '"')):
                name, line = line.split(" ", 1)
            if line.startswith('"'):
                parts[name] = parts.get(name, "") + ast.literal_eval(line)
        context = parts.get("msgctxt")
        key = (context + CONTEXT_END if context else "") + parts["msgid"]
        assert key not in found, f"twice in the catalogue: {key}"
        korean = parts.get("msgstr", parts.get("msgstr[0]", ""))
        found[key] = (parts.get("msgid_plural", ""), korean)
    return found


def text_of(node: ast.AST) -> str | None:
    """Give a string as the catalogue writes it: `{0}`, `{1}` where values stand."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return None
    count, text = 0, ""
    for part in node.values:
        if isinstance(part, ast.Constant):
            text += part.value
        else:
            text, count = f"{text}{{{count}}}", count + 1
    return text


def strings_of(path: Path) -> Iterator[str]:
    """Give each string of a source but docstrings and errors for programmers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr):
                skipped.add(id(first.value))
        if isinstance(node, ast.JoinedStr):
            skipped.update(id(part) for part in node.values)
            formats = [part.format_spec for part in node.values if hasattr(part, "format_spec")]
            skipped.update(id(spec) for spec in formats)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name in FOR_PROGRAMMERS or name in ("compile", "Counter", "Gauge", "Histogram"):
                skipped.update(id(inner) for inner in ast.walk(node))
    for node in ast.walk(tree):
        text = text_of(node)
        if text and id(node) not in skipped:
            yield text


def sources() -> list[Path]:
    paths = sorted(ROOT.rglob("*.py"))
    return [path for path in paths if path.relative_to(ROOT).as_posix() not in NOT_SPOKEN]


def sentences_of(path: Path) -> list[str]:
    texts = (text.removesuffix("\n") for text in strings_of(path))
    return [text for text in texts if WORDS.search(text) and not NOT_SENTENCES.search(text)]


def events_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if not is_call or ast.unparse(node.func.value) != "logger" or node.func.attr == "debug":
            continue
        found |= {
            argument.value
            for argument in node.args[:2]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        }
    return found


def helps(command: click.Command) -> Iterator[str]:
    yield cleandoc(command.help or "")
    yield from (param.help or "" for param in command.params if isinstance(param, click.Option))
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from helps(inner)


@pytest.fixture
def korean() -> Iterator[None]:
    language.use("ko")
    yield
    language.use("en")


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_source_says_is_in_the_catalogue(path: Path) -> None:
    known = {key.rpartition(CONTEXT_END)[2].removesuffix("\n") for key in entries()}
    assert [text for text in sentences_of(path) if text not in known] == []
    assert [name for name in events_of(path) if f"event{CONTEXT_END}{name}" not in entries()] == []


def test_the_sources_are_read_at_all() -> None:
    assert "{0} is cut short; fetch it again." in sentences_of(ROOT / "adapters/dicom_file.py")
    assert "case_finished" in events_of(ROOT / "casework.py")


def test_what_the_launcher_says_is_in_the_catalogue() -> None:
    texts = sentences_of(ROOT.parent / "launcher.py")
    patterns = re.compile(r"[\\|]|^407 |^ensurepip |^import ")
    missing = [text for text in texts if text not in entries() and not patterns.search(text)]
    # For a Python that is too old to read the catalogue.
    assert [text for text in missing if not text.startswith("Python 3.11 or newer")] == []
    assert len(texts) > 20
    assert launcher.__doc__ in entries()


def test_the_help_and_the_stages_are_in_the_catalogue() -> None:
    texts = [text for group in (cli, models, cache_group) for text in helps(group) if text]
    assert len(texts) > 20
    assert [text for text in texts if text not in entries()] == []
    stages = [f"stage{CONTEXT_END}{stage}" for stage in (*STAGES, "waiting")]
    assert [stage for stage in stages if stage not in entries()] == []


def test_an_entry_is_translated_and_keeps_its_values() -> None:
    for key, (plural, text) in entries().items():
        assert text.strip(), key
        offered, used = Counter(HOLE.findall(key + plural)), Counter(HOLE.findall(text))
        if key.startswith("event"):
            continue  # names fields of the log's line instead
        assert used <= offered, key
        # Of what click writes in two ways, one is enough; no other value may be left out.
        assert plural or used == offered, key


def test_the_compiled_catalogue_is_that_of_the_source() -> None:
    with CATALOGUE.with_suffix(".mo").open("rb") as file:
        compiled = dict(gettext.GNUTranslations(file)._catalog)
    assert "nplurals=1" in compiled.pop("")
    wanted = {(key, 0) if plural else key: text for key, (plural, text) in entries().items()}
    assert compiled == wanted


@pytest.mark.parametrize(
    ("english", "korean"),
    [
        (
            "Series 1 (FLAIR): 3 files were left out of the series: no picture.",
            "시리즈 1(FLAIR): 파일 3개를 시리즈에서 제외했습니다: 영상이 아님.",
        ),
        (
            "3 slices are missing, first between instance number 3 (SOP Instance UID 1.2) and "
            "instance number 5 (SOP Instance UID 1.4) (4.00 mm apart, the others 1.00 mm); send "
            "the whole series again.",
            "슬라이스 3장이 없습니다. 첫 누락은 인스턴스 번호 3(SOP Instance UID 1.2), "
            "인스턴스 번호 5(SOP Instance UID 1.4) 사이입니다(간격 4.00 mm, 나머지는 1.00 mm). "
            "시리즈 전체를 다시 보내십시오.",
        ),
        (
            "The series were sorted by their headers (confidence 0.9): series 2 for T1, series 1 "
            "for T1c.",
            "헤더를 기준으로 시리즈를 정렬했습니다(신뢰도 0.9): T1에 시리즈 2, T1c에 시리즈 1.",
        ),
        (
            "The memory of cuda:0 ran out while running the network: close other programs that "
            "use it, or run this model on a larger device.",
            "cuda:0의 메모리가 부족합니다(작업: 신경망 실행). 메모리를 사용하는 다른 프로그램을 "
            "닫거나 메모리가 더 큰 장치에서 이 모델을 실행하십시오.",
        ),
        (
            "config.yaml: server.wait_s: expected a number > 0, got 'fast'\n"
            "config.yaml: servr: unknown key, did you mean 'server'?",
            "config.yaml: server.wait_s: 필요한 값은 0보다 큰 숫자, 현재 값은 'fast'입니다\n"
            "config.yaml: servr: 알 수 없는 키입니다. 'server'을(를) 쓰려던 것이 아닙니까?",
        ),
        ("A sentence of another program.", "A sentence of another program."),
        (
            "Intended use of this model: A demonstration trained on synthetic phantoms, memory.",
            "이 모델의 용도: A demonstration trained on synthetic phantoms, memory.",
        ),
        ("3.11.7 on Linux x86_64", "3.11.7, Linux x86_64"),
        (
            "The inference process was asked to end from outside (SIGTERM).",
            "추론 프로세스가 종료되었습니다(외부의 종료 요청(SIGTERM)).",
        ),
        ("", ""),
    ],
)
def test_a_finished_sentence_is_found_again(english: str, korean: str) -> None:
    assert in_korean(english) == korean


def test_an_error_that_is_really_raised_is_said_in_korean() -> None:
    with pytest.raises(SeriesInvalid) as caught:
        order_slices([])
    assert in_korean(caught.value.message) == (
        "시리즈에 MR 영상이 없습니다. MR 영상의 시리즈를 선택하십시오."
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("값 3은(는)", "값 3은"),
        ("값 2을(를)", "값 2를"),
        ("7(으)로", "7로"),
        ("'6'(으)로", "'6'으로"),
        ("영상이(가)", "영상이"),
        ("검사이(가)", "검사가"),
        ("T1이(가)", "T1이"),
        ("T1(으)로", "T1으로"),
        ("FLAIR이(가)", "FLAIR이(가)"),
    ],
)
def test_a_particle_follows_the_sound_before_it(text: str, said: str) -> None:
    assert with_particles(text) == said


def test_no_text_takes_long() -> None:
    hostile = "The image " + "a (b: , and " * 300 + ") could not"
    started = time.perf_counter()
    assert in_korean(hostile)
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize("content", [None, b"no catalogue", b"\xde\x12\x04\x95"])
def test_without_a_catalogue_everything_is_said_in_english(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "ko" / "LC_MESSAGES").mkdir(parents=True)
        (tmp_path / "ko" / "LC_MESSAGES" / "worker.mo").write_bytes(content)
    monkeypatch.setattr(language, "LOCALE_DIR", tmp_path)
    language._catalogue.cache_clear()
    try:
        assert in_korean("The download was stopped.") == "The download was stopped."
    finally:
        language._catalogue.cache_clear()


@pytest.mark.parametrize(
    ("environ", "wanted", "chosen"),
    [
        ({"WORKER_LANG": "ko", "LANG": "en_US.UTF-8"}, "en", "ko"),
        ({"WORKER_LANG": "en-US"}, "ko", "en"),
        ({"WORKER_LANG": "fr", "LANG": "ko_KR.UTF-8"}, "auto", "ko"),
        ({"LANG": "ko_KR.UTF-8"}, "auto", "ko"),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": "C.UTF-8"}, "auto", "en"),
        ({"LANG": "de_DE"}, "auto", "en"),
        ({"LANG": "C"}, "ko", "ko"),
        ({}, "auto", "en"),
    ],
)
def test_the_language_is_chosen(environ: dict[str, str], wanted: str, chosen: str) -> None:
    assert language.choose(wanted, environ) == chosen


def line_of(formatter: logging.Formatter) -> str:
    record = logging.makeLogRecord({"msg": "case_failed", "levelname": "ERROR", "levelno": 40})
    record.created = 0.0
    record.code = "truncated"
    record.reason = "instance number 3 (SOP Instance UID 1.2) is cut short; fetch it again."
    return formatter.format(record).split(" ", 2)[2]


@pytest.mark.usefixtures("korean")
def test_a_line_of_the_console_says_what_happened_and_keeps_the_event() -> None:
    assert line_of(SpokenFormatter()) == (
        "오류      케이스를 처리하지 못했습니다. case_failed code=truncated "
        "reason='인스턴스 번호 3(SOP Instance UID 1.2): 데이터가 잘려 있습니다. 다시 가져오십시오.'"
    )
    assert line_of(EventFormatter()).startswith("ERROR   case_failed code=truncated reason='inst")


def run_cli(
    *arguments: str, program: Sequence[str] = ("-m", "worker"), **environ: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH")}
    return subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=ROOT.parent,
        env=kept | {"PYTHONUTF8": "1"} | environ,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def test_a_korean_system_gets_korean_help_and_errors_and_a_program_english() -> None:
    asked = run_cli("segment", "/nowhere", "--out", "x", "--json", LANG="ko_KR.UTF-8")
    assert "오류: /nowhere 폴더가 없습니다." in asked.stderr
    assert "There is no folder /nowhere." in asked.stdout
    helped = run_cli("--help", LANG="ko_KR.UTF-8").stdout
    assert helped.startswith("사용법:")
    assert "워커에 필요한 모든 것을 점검" in helped
    assert run_cli("--help", LANG="ko_KR.UTF-8", WORKER_LANG="en").stdout.startswith("Usage:")
    launched = run_cli("--help", program=["launcher.py"], LANG="ko_KR.UTF-8").stdout
    assert launched.startswith("이 폴더를 준비하고")

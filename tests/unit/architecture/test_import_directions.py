"""Which package may import which (docs/architecture.md), read from the sources themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
HEAVY = {"torch", "monai", "ignite"}
# What reaches out of the process; the core decides over values only.
OUTSIDE = {"requests", "urllib", "http", "socket", "subprocess", "pydicom", "highdicom", "nibabel"}


def imports_of(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def offenders(folder: str, forbidden: set[str], *, allowed: str = "") -> list[str]:
    return [
        f"{path.relative_to(REPOSITORY)} imports {name}"
        for path in sorted((REPOSITORY / folder).rglob("*.py"))
        if not (allowed and path.is_relative_to(REPOSITORY / allowed))
        for name in imports_of(path)
        if name.split(".")[0] in forbidden
    ]


def test_the_worker_knows_nothing_of_the_site() -> None:
    assert offenders("worker", {"django", "django_queue_app", "reference_site", "demo"}) == []


def test_the_site_knows_nothing_of_the_worker() -> None:
    assert offenders("django_queue_app", {"worker", "demo", "reference_site", *HEAVY}) == []


def test_only_one_folder_of_the_worker_imports_torch() -> None:
    assert offenders("worker", HEAVY, allowed="worker/adapters/engine_monai") == []


def test_the_core_reaches_nothing_outside() -> None:
    assert offenders("worker/core", OUTSIDE) == []


def test_the_core_imports_no_adapter() -> None:
    inner = [
        f"{path.name} imports {name}"
        for path in (REPOSITORY / "worker" / "core").glob("*.py")
        for name in imports_of(path)
        if name.startswith("worker.") and not name.startswith("worker.core")
    ]
    assert inner == []


@pytest.mark.parametrize("folder", ["worker", "django_queue_app"])
def test_the_check_sees_something(folder: str) -> None:
    assert offenders(folder, {"__future__"})


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("worker.cli", {"numpy", "requests", "rich", "yaml"}),
        ("worker.bootstrap", {"scipy", "pydicom", "highdicom", "nibabel", "SimpleITK"}),
    ],
)
def test_what_must_answer_at_once_imports_nothing_heavy(module: str, unwanted: set[str]) -> None:
    """`--help` must come at once, and the first poll before torch is there."""
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert not set(found.stdout.split()) & (unwanted | HEAVY)

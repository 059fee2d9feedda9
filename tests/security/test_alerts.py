"""deploy/alerts.yml is valid, and asks only for metrics that there are."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from django_queue_app import metrics

REPOSITORY = Path(__file__).resolve().parents[2]
ALERTS = REPOSITORY / "deploy" / "alerts.yml"


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def named(prefix: str) -> set[str]:
    text = " ".join(rule["expr"] for rule in rules())
    return set(re.findall(rf"\b{prefix}\w+", text))


def test_there_are_six_and_each_says_what_to_do() -> None:
    assert len(rules()) == 6
    for rule in rules():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "action"}


@pytest.mark.django_db
def test_each_metric_of_the_site_is_there() -> None:
    told = metrics.render().decode()
    assert named("mri_site_")
    for name in named("mri_site_"):
        assert re.search(rf"^{name}(\{{| )", told, re.M), name


def test_each_metric_of_the_worker_is_there() -> None:
    code = "".join(
        path.read_text(encoding="utf-8") for path in (REPOSITORY / "worker").rglob("*.py")
    )
    assert named("mri_worker_")
    for name in named("mri_worker_"):
        assert re.search(rf"\b(mri_worker_)?{name.removeprefix('mri_worker_')}\b", code), name


@pytest.fixture
def promtool() -> str:
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool (Debian's prometheus) is not installed")
    return path


def test_prometheus_understands_them(promtool: str) -> None:
    checked = subprocess.run(
        [promtool, "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "6 rules found" in checked.stdout


def test_each_speaks_when_it_should_and_is_quiet_on_a_good_day(
    promtool: str, tmp_path: Path
) -> None:
    cases = (Path(__file__).parent / "alerts_cases.yml").read_text(encoding="utf-8")
    path = tmp_path / "cases.yml"
    path.write_text(cases.replace("RULES", str(ALERTS)), encoding="utf-8")
    played = subprocess.run(
        [promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert played.returncode == 0, played.stdout + played.stderr

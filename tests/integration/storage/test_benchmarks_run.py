"""The benchmarks run, in their shortest form: what they print is what they measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import many_sites, queue_load
from tests.support.postgres import why_missing

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_missing()), reason=why_missing() or "PostgreSQL is installed"),
]


def test_the_queue_under_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "figures.json"
    arguments = ["--quick", "--database", "postgresql", "--json", str(figures)]
    assert queue_load.main(arguments) == 0
    measured = json.loads(figures.read_text())
    queues = {row["queue"] for row in measured["service"]}
    assert queues == {"this project", "django-tasks-db", "procrastinate"}
    assert all(row["jobs_per_s"] > 0 for row in measured["service"] + measured["http"])
    assert [row["history"] for row in measured["history"]] == [100, 500]
    assert all("request_ready" in "".join(row["plans"]) for row in measured["history"][-1:])
    assert measured["latency"][0]["posts"] == 4
    assert "From POST to claim" in capsys.readouterr().out


def test_many_sites_lose_and_double_nothing(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    arguments = ["--sites", "2", "--workers", "4", "--jobs", "12", "--posts", "4"]
    assert many_sites.main([*arguments, "--json", str(figures)]) == 0
    load = json.loads(figures.read_text())["load"]
    assert (load["posted"], load["accepted"], load["lost"], load["doubled"]) == (12, 12, 0, 0)

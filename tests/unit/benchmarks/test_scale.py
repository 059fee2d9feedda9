from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import scale

CALLS = ("empty poll", "POST", "claim", "heartbeat", "download of a slice", "upload, complete")


@pytest.fixture
def figures(tmp_path: Path) -> Path:
    rows = [
        {"database": "postgresql", "call": name, "site_cpu_ms": 5.0, "db_cpu_ms": 1.0}
        for name in CALLS
    ]
    path = tmp_path / "figures.json"
    path.write_text(json.dumps({"calls": rows}))
    return path


def test_what_is_scarcest_stands_first(figures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["--figures", str(figures)]) == 0
    shown = capsys.readouterr().out.partition("used up first")[2].strip().splitlines()
    assert "storage of one year" in shown[1]
    assert "most: download of a slice" in "".join(shown)
    used = [float(line.split()[-1]) for line in shown[1:]]
    assert used == sorted(used, reverse=True)


def test_rates_follow_from_hospitals_and_workers(
    figures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--hospitals", "1", "--requests-per-day", "0", "--workers", "250"]
    assert scale.main(["--figures", str(figures), *arguments]) == 0
    polls = next(line for line in capsys.readouterr().out.splitlines() if "empty poll" in line)
    assert polls.split()[-1] == "10"  # each waits 25 s


def test_a_crowd_rests_between_its_waits(figures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--hospitals", "1", "--requests-per-day", "0", "--workers", "7000"]
    assert scale.main(["--figures", str(figures), *arguments]) == 0
    polls = next(line for line in capsys.readouterr().out.splitlines() if "empty poll" in line)
    assert polls.split()[-1] == "200"  # 25 s and 10 s

"""The benchmark of a case's stages, on a case so small that only its sums are of interest."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import stages
from benchmarks.stage_meter import Cost, describe, run_program, summarise


def test_every_stage_of_a_made_case_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    arguments = ["--size", "32x32x16x2", "--rounds", "1", "--stages-only", "--json", str(figures)]
    assert stages.main(arguments) == 0
    one_grid, tilted = json.loads(figures.read_text())["tables"]
    rows = {row["name"]: row for row in one_grid["rows"]}
    assert {"read", "decode", "seg", "check", "nifti", "preview", "report"} <= rows.keys()
    assert "resample" in {row["name"] for row in tilted["rows"]}
    parts = sum(row["cpu_s"] for name, row in rows.items() if name not in SUMS)
    assert parts == pytest.approx(rows["whole case"]["cpu_s"], abs=0.02)
    assert "all series on one grid" in capsys.readouterr().out


SUMS = ("whole case", "without the network")


def test_a_table_shows_the_median_and_its_spread() -> None:
    costs = [Cost(wall_s=wall, cpu_s=wall / 2, peak_mb=wall * 10) for wall in (3.0, 1.0, 2.0)]
    found = summarise("read", costs)
    assert (found.wall_s, found.wall_least_s, found.wall_most_s) == (2.0, 1.0, 3.0)
    assert (found.cpu_s, found.peak_mb, found.rounds) == (1.0, 30.0, 3)
    assert "1.00 (0.50 to 1.50)" in describe("a title", [found])


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of paper"):
        run_program([sys.executable, "-c", "raise SystemExit('out of paper')"], cwd=tmp_path)

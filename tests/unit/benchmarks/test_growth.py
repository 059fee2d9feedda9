"""The benchmark of how cost grows: its lines, and one point."""

from __future__ import annotations

import json

import pytest

from benchmarks import growth


def test_a_line_through_points_and_the_worst_of_them() -> None:
    line = growth.fit([1, 2, 3, 4], [5.0, 7.0, 9.0, 11.0])
    assert (line.per_unit, line.at_zero) == pytest.approx((2, 3))
    assert line.worst == pytest.approx(0, abs=1e-9)
    assert growth.fit([0, 1, 2], [0, 3, 0]).worst == pytest.approx(2)


def test_one_point_is_measured_and_told_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert growth.main(["--point", "24x24x12x2", "--segments", "4", "--rounds", "1"]) == 0
    point = json.loads(capsys.readouterr().out)
    assert point["segments"] == 4
    assert point["cpu_s"] > 0


def test_every_axis_has_points_enough_for_a_line_to_be_wrong() -> None:
    for _, points in growth.plans().values():
        assert len({point.value for point in points}) >= 4


def test_a_table_shows_what_was_measured_beside_the_line() -> None:
    points = tuple(
        growth.Point(value=n, size=growth.BASE, segments=3, cpu_s=0.1 * n + 0.05, peak_mb=10.0 * n)
        for n in (1, 2, 4)
    )
    line = growth.fit([1, 2, 4], [point.cpu_s for point in points])
    axis = growth.Axis(
        name="channels",
        unit="series",
        points=points,
        cpu=line,
        memory=growth.fit([1, 2, 4], [10, 20, 40]),
    )
    assert "100.00 CPU-ms and 10.000 MB for each series" in growth.describe(axis)

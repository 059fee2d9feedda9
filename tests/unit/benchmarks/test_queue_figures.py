from __future__ import annotations

import math

import pytest

from benchmarks.queue_figures import over_repeats, quantile, table
from benchmarks.queue_load import polling_rows


def test_quantiles_lie_between_their_neighbours() -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert quantile([1.0, 2.0], 0.95) == pytest.approx(1.95)
    assert quantile([7.0], 0.99) == 7.0
    assert math.isnan(quantile([], 0.5))


def test_a_median_has_least_and_most_beside_it() -> None:
    merged = over_repeats(
        [{"queue": "a", "x": 3.0}, {"queue": "a", "x": 1.0}, {"queue": "a", "x": 9}]
    )
    assert merged == {"queue": "a", "x": 3.0, "x_spread": [1.0, 9.0]}
    assert "3 [1-9]" in table("t", [merged])


def test_the_existing_script_waits_as_its_rule_says() -> None:
    one, four = polling_rows([1, 4])
    assert one["p50_ms"] == pytest.approx(15_000)
    assert one["p99_ms"] == pytest.approx(29_700)
    assert four["p50_ms"] == pytest.approx(30_000 * (1 - 0.5**0.25))

from __future__ import annotations

import math
import random
import statistics

import pytest

from benchmarks import plan, queueing
from benchmarks.queueing import Case


def exponential(mean_s: float):  # type: ignore[no-untyped-def]
    return lambda random_: random_.expovariate(1 / mean_s)


def test_erlang_c_is_what_the_tables_say() -> None:
    # One server: the chance to wait is the load. Two servers at one erlang: 1/3.
    assert queueing.erlang_c(1, 0.7) == pytest.approx(0.7)
    assert queueing.erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert queueing.erlang_c(10, 8.0) == pytest.approx(0.4092, abs=1e-4)
    assert queueing.erlang_c(4, 4.0) == 1.0


def test_ten_thousand_workers_fit_into_the_formula() -> None:
    assert 0 < queueing.erlang_c(10_000, 9_900.0) < 1


@pytest.mark.parametrize(("workers", "busy"), [(1, 0.7), (4, 0.8), (12, 0.85)])
def test_the_simulation_agrees_with_the_formula_of_m_m_c(workers: int, busy: float) -> None:
    rate = busy * workers / 10.0
    means, shares, p95s = [], [], []
    for seed in range(6):
        cases = queueing.draw_cases(
            rate_per_s=lambda _: rate,
            peak_per_s=rate,
            service=exponential(10.0),
            count=15_000,
            seed=seed,
        )
        waits = queueing.simulate(cases, workers)
        means.append(statistics.fmean(waits))
        shares.append(sum(wait > 0 for wait in waits) / len(waits))
        p95s.append(queueing.quantile(waits, 0.95))
    waiting = queueing.erlang_c(workers, rate * 10.0)
    assert statistics.fmean(shares) == pytest.approx(waiting, rel=0.05)
    assert statistics.fmean(means) == pytest.approx(waiting / (workers / 10 - rate), rel=0.1)
    expected = queueing.erlang_wait_s(workers, rate, 10.0, 0.95)
    assert statistics.fmean(p95s) == pytest.approx(expected, rel=0.1)


def test_one_worker_serves_in_the_order_of_arrival() -> None:
    cases = [Case(arrival_s=at, service_s=2.0) for at in (0.0, 1.0, 1.5, 10.0)]
    assert queueing.simulate(cases, 1) == [0.0, 1.0, 2.5, 0.0]
    assert queueing.simulate(cases, 2) == [0.0, 0.0, 0.5, 0.0]


def test_drawn_times_have_the_mean_and_the_variation_asked_for() -> None:
    draw = queueing.lognormal(45.0, 0.5)
    random_ = random.Random(1)
    times = [draw(random_) for _ in range(40_000)]
    assert statistics.fmean(times) == pytest.approx(45.0, rel=0.02)
    assert statistics.stdev(times) / 45.0 == pytest.approx(0.5, rel=0.05)


def test_a_day_has_its_mean_and_its_peak() -> None:
    rate, peak = plan.day_rate(0.01)
    hours = [rate(hour * 3600.0) for hour in range(24)]
    assert statistics.fmean(hours) == pytest.approx(0.01)
    assert max(hours) == peak == rate(11 * 3600.0)
    assert rate(3 * 3600.0) == 0


def test_the_fewest_workers_are_found() -> None:
    asked: list[int] = []

    def wait(workers: int) -> float:
        asked.append(workers)
        return 100.0 / workers

    assert queueing.fewest_workers(wait, 1.0, least=3) == 100
    assert len(asked) < 20


def test_too_much_load_waits_for_ever() -> None:
    assert queueing.erlang_wait_s(2, 1.0, 3.0, 0.95) == math.inf


def test_the_command_answers(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--arrivals-per-hour", "120", "--service-s", "45", "--p95-wait-s", "60"]
    assert plan.main([*arguments, "--requests", "2000"]) == 0
    head, row = capsys.readouterr().out.strip().splitlines()[-2:]
    found = dict(zip(head.split(), row.split(), strict=False))
    assert found["workers"] == "3"

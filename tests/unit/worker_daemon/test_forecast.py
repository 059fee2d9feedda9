"""When a further request is taken, with a clock of our own."""

from __future__ import annotations

import pytest

from worker.forecast import Forecast


class Silent:
    def stage(self, request_id: str, stage: str, fraction: float) -> None:
        pass

    def done(self, request_id: str) -> None:
        pass


class Run:
    """A forecast and its clock."""

    def __init__(self, *, prefetch: int = 2, devices: int = 1) -> None:
        self.time_s = 0.0
        self.forecast = Forecast(
            Silent(), prefetch=prefetch, devices=lambda: devices, now=lambda: self.time_s
        )

    def wants(self) -> bool:
        return self.forecast.wants_another()

    def take(self, name: str) -> None:
        self.forecast.begin(name)

    def prepare(self, name: str, seconds: float) -> None:
        self.time_s += seconds
        self.forecast.stage(name, "loading", 1.0)

    def infer(self, name: str, seconds: float) -> None:
        self.forecast.stage(name, "inferring", 0.0)
        self.time_s += seconds
        self.forecast.stage(name, "writing", 0.0)

    def whole(self, name: str, *, prepare_s: float, infer_s: float) -> None:
        self.take(name)
        self.prepare(name, prepare_s)
        self.infer(name, infer_s)
        self.forecast.done(name)


def test_the_first_request_is_taken_at_once_and_nothing_ahead_of_it() -> None:
    run = Run()
    assert run.wants()
    run.take("a")
    assert not run.wants()
    run.prepare("a", 5)
    run.forecast.stage("a", "inferring", 0.0)
    assert not run.wants()


def test_a_short_network_lets_the_next_request_be_taken_while_it_runs() -> None:
    run = Run()
    run.whole("a", prepare_s=4, infer_s=1)
    run.take("b")
    assert run.wants()  # b needs 5 s, and so long would the next one's images take
    run.take("c")
    run.take("d")
    assert not run.wants()  # two ahead, and no more


def test_a_long_network_leaves_the_next_request_to_other_workers_until_it_is_nearly_done() -> None:
    run = Run()
    run.whole("a", prepare_s=4, infer_s=600)
    run.take("b")
    run.prepare("b", 4)
    run.forecast.stage("b", "inferring", 0.0)
    assert not run.wants()
    run.time_s += 590
    assert not run.wants()
    run.time_s += 5  # 5 s left, and images usually take 4
    assert run.wants()


def test_a_case_that_takes_longer_than_usual_does_not_stop_the_next_one() -> None:
    run = Run()
    run.whole("a", prepare_s=1, infer_s=10)
    run.take("b")
    run.prepare("b", 1)
    run.forecast.stage("b", "inferring", 0.0)
    run.time_s += 100
    assert run.wants()


def test_the_mask_being_written_does_not_stop_the_next_request() -> None:
    run = Run()
    run.take("a")
    run.prepare("a", 3)
    run.infer("a", 30)
    assert run.wants()


def test_masks_that_are_not_delivered_do_not_pile_up() -> None:
    run = Run(prefetch=1)
    for name in ("a", "b", "c", "d"):
        run.take(name)
        run.prepare(name, 1)
        run.infer(name, 1)
    assert not run.wants()
    run.forecast.done("a")
    assert run.wants()


def test_without_prefetch_the_next_request_is_taken_after_the_last_one_is_delivered() -> None:
    run = Run(prefetch=0)
    run.whole("a", prepare_s=1, infer_s=1)
    run.take("b")
    run.prepare("b", 1)
    run.infer("b", 1)
    assert not run.wants()
    run.forecast.done("b")
    assert run.wants()


@pytest.mark.parametrize("devices", [2, 3])
def test_each_device_has_a_request_of_its_own(devices: int) -> None:
    run = Run(devices=devices)
    for index in range(devices):
        assert run.wants()
        run.take(f"r{index}")
    assert not run.wants()


def test_a_device_that_is_free_soon_is_what_counts_of_two() -> None:
    run = Run(devices=2)
    run.whole("a", prepare_s=2, infer_s=100)
    run.take("b")
    run.prepare("b", 2)
    run.forecast.stage("b", "inferring", 0.0)
    run.time_s += 97
    run.take("c")
    run.prepare("c", 1)
    run.forecast.stage("c", "inferring", 0.0)
    assert run.wants()  # b leaves in 2 s, c only in 100


def test_a_case_that_failed_before_the_device_teaches_nothing() -> None:
    run = Run()
    run.take("a")
    run.prepare("a", 1)
    run.forecast.done("a")
    run.take("b")
    assert not run.wants()

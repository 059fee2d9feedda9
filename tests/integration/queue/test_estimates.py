"""How long a request is likely to take."""

from __future__ import annotations

import pytest

from django_queue_app import estimates
from tests.support.queue_driver import Queue

pytestmark = pytest.mark.django_db


@pytest.fixture
def driver() -> Queue:
    return Queue()


def _complete(queue: Queue, seconds: float, **filed: str) -> None:
    request = queue.file(**filed)
    job = queue.take(queue.token(), models=("brats", "other"))
    assert job.request.pk == request.pk
    queue.pass_time(seconds)
    job.complete()


def test_nothing_is_expected_where_nothing_was_done(driver: Queue) -> None:
    assert estimates.expected_s(driver.file()) is None


def test_the_median_of_the_same_model_and_lane_is_expected(driver: Queue) -> None:
    for seconds in (10, 14, 300):
        _complete(driver, seconds, model="brats")
    _complete(driver, 1, model="other")
    assert estimates.expected_s(driver.file(model="brats")) == 14
    assert estimates.expected_s(driver.file(model="brats", lane="cloud")) is None


def test_the_time_since_the_filing_stops_at_the_end(driver: Queue) -> None:
    request = driver.file()
    driver.pass_time(30)
    assert estimates.elapsed_s(request, driver.now) == pytest.approx(30)
    request.finished_at = driver.now
    driver.pass_time(100)
    assert estimates.elapsed_s(request, driver.now) == pytest.approx(30)

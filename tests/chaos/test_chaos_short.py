"""A short chaos run on each database; a long one is `python -m tests.chaos --minutes 60`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.chaos.chaos_run import ChaosRun, Report
from tests.support.postgres import Cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP is POSIX's"),
]

CHAOS_S = 12.0
# Much longer than it takes: the machine may do much else.
SETTLE_S = 150.0


def check(report: Report) -> None:
    assert report.is_good(), report.lines()
    assert report.accepted_per_job == {1: report.finished}
    assert report.faults


def test_nothing_is_lost_or_doubled_on_sqlite(tmp_path: Path) -> None:
    check(ChaosRun(tmp_path, seed=1, workers=2).run(CHAOS_S, settle_s=SETTLE_S))


@pytest.mark.postgresql
def test_nothing_is_lost_or_doubled_on_postgresql(
    tmp_path: Path, postgres_cluster: Cluster
) -> None:
    url = postgres_cluster.create_database()
    run = ChaosRun(tmp_path, seed=2, workers=2, database_url=url)
    check(run.run(CHAOS_S, settle_s=SETTLE_S))

"""The child of a chaos run: the real pipeline around a threshold, with pauses in which to die."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from tests.integration.worker_daemon import threshold_child
from tests.support.threshold_engine import ThresholdEngine
from worker.core.job import Case, CaseResult
from worker.pipeline import segment_case

_LONGEST_CASE_S = 1.0
_STEPS = 10


class SlowEngine(ThresholdEngine):
    """Takes up to a second, and tells how far it is."""

    def segment(self, model, channels, affine_ras, on_progress):
        pause_s = random.uniform(0, _LONGEST_CASE_S) / _STEPS
        for step in range(_STEPS):
            time.sleep(pause_s)
            on_progress(step / _STEPS)
        return super().segment(model, channels, affine_ras, on_progress)


def noted(case: Case, **options) -> CaseResult:
    """Write down that a run begins, one line each, then do it."""
    with Path(os.environ["CHAOS_RUNS"]).open("a", encoding="ascii") as file:
        file.write(f"{case.request_id}\n")
    return segment_case(case, **options)


if __name__ == "__main__":
    threshold_child.ThresholdEngine = SlowEngine
    threshold_child.segment_case = noted
    threshold_child.main()

"""A child whose network is a threshold; all else is the real pipeline, so the masks are real."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tests.support.imaging_models import LESION, model_entry
from tests.support.threshold_engine import ThresholdEngine
from worker.core.job import Case
from worker.pipeline import segment_case


def main() -> None:
    outgoing = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(**message: object) -> None:
        outgoing.write(json.dumps(message) + "\n")
        outgoing.flush()

    @contextmanager
    def turn() -> Iterator[None]:
        send(type="device_wanted")
        while json.loads(sys.stdin.readline())["type"] != "device_granted":
            pass
        yield
        send(type="device_done")

    send(type="ready", device="cpu", models=["fake"])
    while line := sys.stdin.readline():
        message = json.loads(line)
        if message["type"] != "case":
            continue
        result = segment_case(
            Case.from_json(message),
            model=replace(model_entry(LESION), warnings=("Intended use of this model: tests",)),
            engine=ThresholdEngine([100]),
            on_progress=lambda stage, progress: send(
                type="progress", stage=stage, progress=progress
            ),
            turn=turn,
        )
        send(type="result", **result.to_json())


if __name__ == "__main__":
    main()

"""The real program with the fault-injecting child in place of the one that runs networks.

``KILL_AT`` names the step at which the daemon kills itself with SIGKILL, as a power cut would;
``CLOCK_OFF_S`` sets this process's wall clock wrong by so many seconds.
"""

import functools
import os
import signal
import sys
import time
from pathlib import Path

from worker import bootstrap, cli, outbox, room

CHILD = Path(__file__).resolve().parents[2] / "integration" / "worker_daemon" / "fake_child.py"


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(step):
    save_job, finish, drop = outbox.Outbox.save_job, outbox.Outbox.finish, outbox.Outbox.drop

    def finish_and_die(self, entry, finished):
        finish(self, entry, finished)
        die()

    def save_and_die(self, entry, job):
        save_job(self, entry, job)
        die()

    def die_before_drop(self, entry):
        if entry.end() is not None:
            die()
        drop(self, entry)

    match step:
        case "before the job is written":
            outbox.Outbox.save_job = die
        case "after the job is written":
            outbox.Outbox.save_job = save_and_die
        case "before the result is renamed":
            outbox.Outbox.finish = die
        case "between rename and POST":
            outbox.Outbox.finish = finish_and_die
        case "between the answer and the deletion":
            outbox.Outbox.drop = die_before_drop
        case other:
            raise ValueError(other)


def set_clock_wrong(by_s):
    right = time.time
    time.time = lambda: right() + by_s


if __name__ == "__main__":
    if "KILL_AT" in os.environ:
        kill_at(os.environ["KILL_AT"])
    if "CLOCK_OFF_S" in os.environ:
        set_clock_wrong(float(os.environ["CLOCK_OFF_S"]))
    # The disk of these tests is others', too: what is left of it goes up and down by itself.
    room.REMEMBERED_S = 5
    bootstrap.build = functools.partial(
        bootstrap.build, command=[sys.executable, str(CHILD)], find_usable=lambda _: ("fake",)
    )
    sys.exit(cli.main())

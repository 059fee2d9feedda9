"""The real program with the fault-injecting child in place of the one that runs networks."""

import functools
import sys
from pathlib import Path

from worker import bootstrap, cli

CHILD = Path(__file__).resolve().parents[2] / "integration" / "worker_daemon" / "fake_child.py"

if __name__ == "__main__":
    bootstrap.build = functools.partial(
        bootstrap.build, command=[sys.executable, str(CHILD)], find_usable=lambda _: ("fake",)
    )
    sys.exit(cli.main())

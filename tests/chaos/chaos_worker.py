"""The real worker program with the chaos run's child in place of the one that runs networks."""

import functools
import sys
from pathlib import Path

from worker import bootstrap, cli

if __name__ == "__main__":
    child = [sys.executable, str(Path(__file__).with_name("chaos_child.py"))]
    bootstrap.build = functools.partial(
        bootstrap.build, command=child, find_usable=lambda _: ("fake",)
    )
    sys.exit(cli.main())

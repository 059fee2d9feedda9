"""A chaos run by hand: ``python -m tests.chaos --minutes 5 --workers 3 --database postgresql``.

Ends with 0 only if nothing that was filed was lost or doubled, everything ended, and every file is
there with the bytes that its digest says.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.chaos_run import ChaosRun
from tests.support.postgres import Cluster, why_missing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=1.0, help="how long the chaos lasts")
    length.add_argument("--hours", type=float, help="the same in hours")
    parser.add_argument("--seed", type=int, default=None, help="which faults; random by default")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--settle", type=float, default=300, help="seconds until all must be done")
    parser.add_argument("--keep", type=Path, help="an empty folder for all files, kept afterwards")
    options = parser.parse_args()
    if options.database == "postgresql" and why_missing():
        parser.error(why_missing())
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    seconds = options.hours * 3600 if options.hours else options.minutes * 60
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        url = ""
        if options.database == "postgresql":
            cluster = stack.enter_context(Cluster())
            cluster.start()
            url = cluster.create_database()
        print(f"seed {seed}: {seconds:.0f} s of chaos", flush=True)
        run = ChaosRun(folder, seed=seed, workers=options.workers, database_url=url)
        report = run.run(seconds, settle_s=options.settle)
    print("\n".join(report.lines()))
    return 0 if report.is_good() else 1


if __name__ == "__main__":
    sys.exit(main())

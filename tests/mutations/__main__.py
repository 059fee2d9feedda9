"""Plant each bug in a copy of the code, run its tests, and tell which test caught it.

    python -m tests.mutations            all of them
    python -m tests.mutations lease      those with "lease" in their name

Ends with 1 if a bug survives, if the tests fail without one, or if the code that a bug changes is
not there any more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutations.bugs import BUGS, Bug

REPOSITORY = Path(__file__).resolve().parents[2]
COPIED = ("worker", "django_queue_app", "reference_site", "tests", "demo", "models")
LIMIT_S = 300


def main(words: list[str]) -> int:
    """Plant the bugs whose name has all the words; return the exit code."""
    chosen = [bug for bug in BUGS if all(word in bug.name for word in words)]
    if not chosen:
        print("no planted bug has such a name", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        copy = Path(folder)
        _copy_code(copy)
        failed = _first_failure(copy, sorted({test for bug in chosen for test in bug.tests}))
        if failed:
            print(f"the tests fail without a planted bug: {failed}")
            return 1
        survived = [bug.name for bug in chosen if not _is_caught(copy, bug)]
    print(f"{len(chosen) - len(survived)} of {len(chosen)} planted bugs were caught")
    return int(bool(survived))


def _copy_code(copy: Path) -> None:
    for name in COPIED:
        shutil.copytree(
            REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.pt")
        )
    for path in REPOSITORY.iterdir():
        if path.is_file():
            shutil.copy2(path, copy / path.name)


def _is_caught(copy: Path, bug: Bug) -> bool:
    path = copy / bug.file
    sound = path.read_text(encoding="utf-8")
    if sound.count(bug.old) != 1:
        print(f"STALE     {bug.name}: {bug.file} does not hold the code that it changes, once")
        return False
    path.write_text(sound.replace(bug.old, bug.new), encoding="utf-8")
    try:
        catcher = _first_failure(copy, list(bug.tests))
    finally:
        path.write_text(sound, encoding="utf-8")
    print(f"caught    {bug.name}: {catcher}" if catcher else f"SURVIVED  {bug.name}", flush=True)
    return bool(catcher)


def _first_failure(copy: Path, tests: list[str]) -> str:
    """Run tests in the copy until one fails; return its name, or an empty text."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("DATABASE_URL", None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    if done.returncode == 0:
        return ""
    named = [
        line.split()[1]
        for line in done.stdout.splitlines()
        if line.startswith(("FAILED tests", "ERROR tests"))
    ]
    return named[0] if named else done.stdout[-500:] + done.stderr[-500:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

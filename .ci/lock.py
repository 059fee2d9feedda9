#!/usr/bin/env python3
"""Write requirements.lock: every file's hash of every version in constraints.txt, from the index.

    .venv/bin/python .ci/lock.py            (after each change of constraints.txt or setup.py)

Needs uv on the PATH (`pip install uv` in an environment of its own) and the network, and runs in
the project's own environment: what a package asks for is read from what is installed there. Hashes
of all files of a version are listed, whatever system and Python they are for: one lock serves all.
torch is left out: which of its builds fits decides the machine (decision 19).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from launcher import read_requirements  # noqa: E402

LEFT_OUT = "torch"
HEADER = """\
# Written by .ci/lock.py, never by hand. launcher.py installs from it with pip's --require-hashes;
# the lines "for:" say which of setup.py's extras need a package ("worker" is the base).
"""


def main() -> int:
    """Write the lock."""
    pins = _pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    needed = _needed_for(read_requirements(ROOT / "setup.py"), set(pins))
    blocks = [_with_extras(block, needed) for block in _blocks(_hashed(pins))]
    (ROOT / "requirements.lock").write_text(HEADER + "".join(blocks), encoding="utf-8")
    print(f"requirements.lock: {len(blocks)} packages")
    return 0


def _pins(constraints: str) -> dict[str, str]:
    """Give the line of each package by its name."""
    lines = [line for line in constraints.splitlines() if line and not line.startswith("#")]
    pins = {canonicalize_name(Requirement(line).name): line for line in lines}
    del pins[LEFT_OUT]
    return pins


def _hashed(pins: dict[str, str]) -> str:
    uv = shutil.which("uv")
    if uv is None:
        sys.exit("uv is not on the PATH: pip install uv in an environment of its own.")
    with tempfile.TemporaryDirectory() as folder:
        pinned, out = Path(folder) / "pins.in", Path(folder) / "out.txt"
        pinned.write_text("\n".join(pins.values()), encoding="utf-8")
        options = ["--no-deps", "--universal", "--python-version", "3.11", "--generate-hashes"]
        quiet = ["--no-annotate", "--no-header", "--quiet"]
        command = [uv, "pip", "compile", *options, *quiet, str(pinned), "--output-file", str(out)]
        subprocess.run(command, check=True)
        return out.read_text(encoding="utf-8")


def _blocks(text: str) -> list[str]:
    return re.findall(r"^[a-z0-9].*\n(?:    --hash=.*\n)+", text, flags=re.MULTILINE)


def _needed_for(wanted: dict[str, list[str]], pinned: set[str]) -> dict[str, set[str]]:
    """Say for each package which extras lead to it."""
    found: dict[str, set[str]] = {}
    for extra, lines in wanted.items():
        for name in _closure(lines, pinned):
            found.setdefault(name, set()).add(extra or "worker")
    unneeded = pinned - set(found)
    if unneeded:
        sys.exit(f"constraints.txt pins what nothing asks for: {', '.join(sorted(unneeded))}")
    return found


def _closure(lines: list[str], pinned: set[str]) -> set[str]:
    """Follow what packages ask for, for whatever system: the pins decide what matters."""
    seen: set[tuple[str, str]] = set()
    todo = [
        (canonicalize_name(one.name), extra)
        for one in map(Requirement, lines)
        for extra in ("", *one.extras)
    ]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen or name not in pinned | {LEFT_OUT}:
            continue
        seen.add((name, extra))
        for asked in map(Requirement, _asks_for(name)):
            if _is_asked_with(asked, extra):
                todo += [(canonicalize_name(asked.name), one) for one in ("", *asked.extras)]
    return {name for name, _ in seen} - {LEFT_OUT}


def _asks_for(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:  # of another system
        return []


def _is_asked_with(asked: Requirement, extra: str) -> bool:
    """Tell whether a requirement counts, on any system, for a package with this extra."""
    match = re.search(r'extra == "([^"]+)"', str(asked.marker or ""))
    return match is None if not extra else match is not None and match[1] == extra


def _with_extras(block: str, needed: dict[str, set[str]]) -> str:
    name = canonicalize_name(block.split("==", 1)[0])
    return f"{block}    # for: {', '.join(sorted(needed[name]))}\n"


if __name__ == "__main__":
    sys.exit(main())

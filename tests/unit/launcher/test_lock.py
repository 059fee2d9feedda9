"""requirements.lock agrees with constraints.txt, and nothing is installed past it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import launcher
from tests.unit.launcher.test_launcher import FakePip, SetUp

REPOSITORY = Path(launcher.__file__).parent
LOCK = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
BLOCK = (
    r"^([a-z0-9-]+)==(\S+)(.*) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)    # for: (.+)\n"
)
SMALL = """\
# Written by .ci/lock.py
django==5.2.19 \\
    --hash=sha256:aa
    # for: site
requests==2.34.2 \\
    --hash=sha256:bb \\
    --hash=sha256:cc
    # for: site, worker
ruff==0.17.5 \\
    --hash=sha256:dd
    # for: dev
"""


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(one.name): str(one.specifier) for one in wanted}


def test_lock_and_constraints_name_the_same_versions() -> None:
    """Else run .ci/lock.py again."""
    locked = {found[1]: f"=={found[2]}" for found in re.finditer(BLOCK, LOCK, re.M)}
    assert locked == {name: pin for name, pin in pins().items() if name != "torch"}


def test_every_line_of_the_lock_is_read() -> None:
    left = re.sub(BLOCK, "", LOCK, flags=re.M)
    assert [line for line in left.splitlines() if line and not line.startswith("#")] == []


def test_every_extra_of_setup_py_is_in_the_lock() -> None:
    extras = {name for found in re.findall(r"# for: (.+)", LOCK) for name in found.split(", ")}
    wanted = launcher.read_requirements(REPOSITORY / "setup.py")
    assert extras == {name for name, lines in wanted.items() if lines and name} | {"worker"}


@pytest.mark.parametrize(
    ("extras", "names"),
    [
        ({"site"}, ["django", "requests"]),
        ({"worker"}, ["requests"]),
        ({"dev"}, ["requests", "ruff"]),  # any extra but the site needs the base
        ({"site", "dev"}, ["django", "requests", "ruff"]),
    ],
)
def test_each_extra_gets_its_part(extras: set[str], names: list[str]) -> None:
    part = launcher.locked_requirements(SMALL, extras)
    assert re.findall(r"^([a-z]+)==", part, re.M) == names
    assert ("--hash=sha256:cc" in part) == ("requests" in names)


def test_what_has_a_hash_is_installed_by_it_first_and_brings_nothing(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text(
        'REQUIREMENTS = {"": ["torch>=2", "requests"], "worker": []}\n'
    )
    (tmp_path / "constraints.txt").write_text("requests==2.34.2\ntorch==2.13.0\n")
    (tmp_path / "requirements.lock").write_text(SMALL)
    pip = FakePip()

    def set_up() -> SetUp:
        return SetUp(tmp_path, {}, run=pip, free_bytes=lambda _: 10**12, stream=io.StringIO())

    set_up().ensure({"worker"})
    by_hash, torch, rest = pip.installs()
    assert {"--no-deps", "--require-hashes"} <= set(by_hash)
    told = Path(by_hash[by_hash.index("-r") + 1]).read_text()
    assert "requests==2.34.2" in told
    assert "torch" not in told
    assert torch[-1] == "torch==2.13.0"
    assert rest[-1] == "requests"
    pip.commands.clear()
    (tmp_path / "requirements.lock").write_text(SMALL + "# newer\n")
    set_up().ensure({"worker"})
    assert len(pip.installs()) == 3

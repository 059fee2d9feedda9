"""The plugin that lets no test skip in CI, seen at work on a small suite."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
PLUGINS = ("-pno:django", "-pno:cacheprovider", "-ptests.plugins.no_skips")
SUITE = """
import pytest

def test_passes(): pass

@pytest.mark.skipif(True, reason="no orthanc here")
def test_marked(): pass

def test_in_the_middle(): pytest.skip("no data here")

@pytest.mark.gpu
def test_gpu(): pytest.skip("no CUDA device")

@pytest.mark.real_data
def test_real(): pytest.skip("no images")

@pytest.mark.xfail(reason="a known bug")
def test_expected(): assert False
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  gpu: x\n  real_data: x\n")
    (tmp_path / "test_suite.py").write_text(SUITE)
    return tmp_path


def outcome(suite: Path, **environ: str) -> tuple[dict[str, int], str]:
    """Run the suite apart from this one; return its counts and its output."""
    clean = {name: value for name, value in os.environ.items() if "SEGMENTATION" not in name}
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", *PLUGINS],
        cwd=suite,
        env={**clean, "PYTHONPATH": str(REPOSITORY), **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    counts = re.findall(r"(\d+) (passed|failed|skipped|xfailed|errors?)", answer.stdout)
    return {name: int(count) for count, name in counts}, answer.stdout


def test_skips_are_skips_elsewhere(suite: Path) -> None:
    assert outcome(suite)[0] == {"passed": 1, "skipped": 4, "xfailed": 1}


def test_in_ci_only_a_missing_gpu_excuses(suite: Path) -> None:
    counts, text = outcome(suite, SEGMENTATION_CI="1")
    assert counts == {"passed": 1, "failed": 2, "error": 1, "skipped": 1, "xfailed": 1}
    assert "SEGMENTATION_CI=1): no data here" in text.replace("Skipped: ", "")


def test_ci_without_the_real_images_says_so_and_goes_on(suite: Path) -> None:
    counts, _ = outcome(suite, SEGMENTATION_CI="1", SEGMENTATION_CI_WITHOUT="real_data")
    assert counts == {"passed": 1, "failed": 1, "error": 1, "skipped": 2, "xfailed": 1}


def test_a_module_that_skips_itself_fails_in_ci(suite: Path) -> None:
    (suite / "test_more.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    assert outcome(suite, SEGMENTATION_CI="1")[0].keys() & {"error", "errors"}

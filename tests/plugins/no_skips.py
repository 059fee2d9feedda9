"""In CI a skipped test is a failed one.

Tests skip where a real part is missing (PostgreSQL, Orthanc, Chromium, the validators, the real
images), so that a laptop can still run the suite. In CI `.ci/run` has installed those parts, and a
skip would only hide that it had not: with SEGMENTATION_CI=1 each skip fails, with its reason, but
for tests marked `gpu` and for markers named in SEGMENTATION_CI_WITHOUT (comma separated).
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest


def forbids_skips(environ: os._Environ[str] | dict[str, str]) -> bool:
    """Return whether skips count as failures here."""
    return environ.get("SEGMENTATION_CI") == "1"


def excused_markers(environ: os._Environ[str] | dict[str, str]) -> frozenset[str]:
    """Return the markers whose tests may skip even in CI."""
    without = environ.get("SEGMENTATION_CI_WITHOUT", "").split(",")
    return frozenset({"gpu", *(name.strip() for name in without if name.strip())})


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    longrepr = report.longrepr
    return longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = _reason(report)
    report.outcome = "failed"
    report.longrepr = f"skipped where nothing may be skipped (SEGMENTATION_CI=1): {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one."""
    report = yield
    is_expected_failure = hasattr(report, "wasxfail")
    is_excused = any(item.get_closest_marker(name) for name in excused_markers(os.environ))
    if report.skipped and not is_expected_failure and not is_excused and forbids_skips(os.environ):
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a module that skips itself while it is collected into a failed one."""
    report = yield
    if report.skipped and forbids_skips(os.environ):
        _fail(report)
    return report

"""Leaves out what takes minutes, unless it is asked for."""

from __future__ import annotations

import os

import pytest

_ASKED_FOR = "SEGMENTATION_SLOWEST"


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker."""
    config.addinivalue_line("markers", f"slowest: minutes of work; runs with {_ASKED_FOR}=1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, not skip: nothing is missing, it only takes too long for every run."""
    if os.environ.get(_ASKED_FOR) == "1":
        return
    left_out = [item for item in items if item.get_closest_marker("slowest")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]

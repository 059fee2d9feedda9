from __future__ import annotations

import pytest

from tests.support.queue_driver import Queue


@pytest.fixture
def queue(db: None) -> Queue:
    return Queue()

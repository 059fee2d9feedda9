"""A PostgreSQL server for the tests that ask for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.postgres import Cluster, why_missing


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Cluster]:
    """Give a running server that all tests of the session share.

    A test that stops it starts it again. One process can't lose what another wrote, so it need not
    wait for the disk.
    """
    reason = why_missing()
    if reason:
        pytest.skip(reason)
    with Cluster({"fsync": "off"}) as cluster:
        cluster.start()
        yield cluster


@pytest.fixture
def postgres_url(postgres_cluster: Cluster) -> str:
    """Give the address of an empty database."""
    return postgres_cluster.create_database()

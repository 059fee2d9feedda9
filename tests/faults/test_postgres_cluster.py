"""The server that other tests lean on: it keeps what was committed, however it stops."""

from __future__ import annotations

import psycopg
import pytest

from tests.support.postgres import Cluster

pytestmark = pytest.mark.postgresql


@pytest.mark.parametrize("is_immediate", [False, True])
def test_what_was_committed_outlives_a_stop(postgres_cluster: Cluster, is_immediate: bool) -> None:
    url = postgres_cluster.create_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (value int)")
        connection.execute("INSERT INTO kept VALUES (7)")
    try:
        postgres_cluster.stop(is_immediate=is_immediate)
        assert not postgres_cluster.is_running
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)
    finally:
        postgres_cluster.start()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT value FROM kept").fetchall() == [(7,)]

"""Statistics of a client's connections."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from client_adapter import Open

from atlas_sdk import Atlas, DatabaseUnreachable
from atlas_sdk.results import PoolStats


def test_connections_and_requests_are_counted(open_client: Open, dsn: str) -> None:
    client = open_client(dsn, pool_max=7)
    before = client.pool()
    assert isinstance(before, PoolStats)
    assert before.size_max == 7
    user = client.users.create("ada@example.com")
    for _ in range(50):
        client.users.get(user.id)
    after = client.pool()
    assert after.requests - before.requests == 51
    assert (after.size, after.idle, after.in_use, after.waiting) == (1, 1, 0, 0)
    assert after.opened == 1
    assert after.opening_s >= 0
    assert (after.failed, after.lost, after.refused) == (0, 0, 0)


def test_what_is_in_use_is_not_idle(open_client: Open, dsn: str) -> None:
    client = open_client(dsn)
    with client.transaction() as first, client.transaction() as second:
        first.users.list()
        second.users.list()
        found = client.pool()
        assert (found.in_use, found.idle) == (2, 0)
    after = client.pool()
    assert after.in_use == 0
    assert after.idle == after.size


def test_who_waits_and_who_gave_up_is_counted(dsn: str) -> None:
    with Atlas.open(dsn, pool_max=1, connect_timeout_s=0.3) as client:
        with client.transaction(), ThreadPoolExecutor(1) as threads:
            before = client.pool()
            waiter = threads.submit(client.users.list)
            while not client.pool().waiting and not waiter.done():
                pass
            assert client.pool().waiting == 1
            with pytest.raises(DatabaseUnreachable):
                waiter.result()
        found = client.pool()
        assert (found.waits - before.waits, found.refused, found.waiting) == (1, 1, 0)
        assert found.waited_s - before.waited_s >= 0.25


def test_lost_connections_are_counted(open_client: Open, dsn: str, migrated: psycopg.Connection[Any]) -> None:
    client = open_client(dsn)
    client.users.list()
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    migrated.execute(f"SELECT pg_terminate_backend(pid) {others}")
    while migrated.execute(f"SELECT count(*) {others}").fetchone() != (0,):
        threading.Event().wait(0.01)
    client.users.list()
    found = client.pool()
    assert found.lost == 1
    assert found.opened >= 2


def test_it_is_cheap(dsn: str) -> None:
    """A program may read the statistics at every request, because no statement goes to the server."""
    with Atlas.open(dsn) as client:
        requests = client.pool().requests
        for _ in range(100):
            client.pool()
        assert client.pool().requests == requests


def test_copies_tell_of_the_same_connections(open_client: Open, dsn: str) -> None:
    client = open_client(dsn)
    copy = client.with_context(ip="127.0.0.1")
    copy.users.list()
    assert copy.pool() == client.pool()

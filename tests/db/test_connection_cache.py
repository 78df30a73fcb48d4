"""Connections at hand: kept by a busy client, given back when nobody uses them, and never a closed one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from guard_adapter import until
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from atlas_sdk._drive.connection_cache import AsyncConnectionCache, ConnectionCache, closed_by_server
from atlas_sdk._drive.pooled_connection import AsyncPooledConnection, PooledConnection

KWARGS: dict[str, Any] = {"autocommit": True, "prepare_threshold": 1}


@pytest.fixture
def pool(dsn: str) -> Iterator[ConnectionPool[PooledConnection]]:
    with ConnectionPool(
        dsn, connection_class=PooledConnection, kwargs=KWARGS, min_size=0, max_size=2, timeout=5
    ) as made:
        yield made


def busy(spares: ConnectionCache) -> PooledConnection:
    """Use a connection twice in a row, which leaves it at hand; return it."""
    for _ in range(2):
        line = spares.get()
        spares.put(line)
    return line


def test_a_busy_clients_connection_stays_at_hand(pool: ConnectionPool[PooledConnection]) -> None:
    spares = ConnectionCache(pool)
    line = busy(spares)
    assert (len(spares), spares.reused) == (1, 0)
    assert spares.get() is line
    assert (len(spares), spares.reused) == (0, 1)
    assert pool.get_stats()["pool_available"] == 0
    spares.put(line)
    spares.close()
    assert pool.get_stats()["pool_available"] == 1


def test_who_waits_for_the_pool_gets_what_comes_back(pool: ConnectionPool[PooledConnection]) -> None:
    spares = ConnectionCache(pool)
    pool.resize(0, 1)
    line = busy(spares)
    assert spares.get() is line
    found: list[PooledConnection] = []
    waiting = threading.Thread(target=lambda: found.append(spares.get()))
    waiting.start()
    until(lambda: pool.get_stats().get("requests_waiting"))
    # A busy client's would stay at hand.
    spares._idle._kept_at = time.monotonic()
    spares.put(line)
    waiting.join()
    assert found == [line]
    spares.put(line)
    spares.close()


def test_one_that_the_server_closed_is_not_given_out(dsn: str, pool: ConnectionPool[PooledConnection]) -> None:
    spares = ConnectionCache(pool)
    line = busy(spares)
    end_all(dsn, [line])
    fresh = spares.get()
    assert fresh is not line
    assert fresh.execute_prepared("SELECT %(n)s + 1", {"n": 1}).rows == [(2,)]
    spares.put(fresh)
    spares.close()


def end_all(dsn: str, lines: list[Any]) -> None:
    with psycopg.connect(dsn, autocommit=True) as other:
        for line in lines:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (line.info.backend_pid,))


def test_after_a_restart_of_the_server_nobody_is_told_that_it_is_down(
    dsn: str, pool: ConnectionPool[PooledConnection]
) -> None:
    """Not even with more connections in the pool than its own check could try in the time of a caller."""
    pool.resize(0, 6)
    lines = [pool.getconn() for _ in range(6)]
    for line in lines:
        pool.putconn(line)
    end_all(dsn, lines)
    spares = ConnectionCache(pool)
    assert spares.get().execute_prepared("SELECT %(n)s + 1", {"n": 1}).rows == [(2,)]


def test_after_a_restart_of_the_server_no_asyncio_client_is_told_that_it_is_down(dsn: str) -> None:
    async def run() -> None:
        pool = AsyncConnectionPool(
            dsn, connection_class=AsyncPooledConnection, kwargs=KWARGS, min_size=0, max_size=6, open=False
        )
        async with pool:
            lines = [await pool.getconn() for _ in range(6)]
            for line in lines:
                await pool.putconn(line)
            end_all(dsn, lines)
            found = await AsyncConnectionCache(pool).get()
            assert (await found.execute_prepared("SELECT %(n)s + 1", {"n": 1})).rows == [(2,)]
            await pool.putconn(found)

    asyncio.run(run())


def test_one_that_has_something_to_say_is_given_out(dsn: str, pool: ConnectionPool[PooledConnection]) -> None:
    spares = ConnectionCache(pool)
    line = busy(spares)
    line.execute("LISTEN told")
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("NOTIFY told")
    until(lambda: closed_by_server(line))
    assert spares.get() is line
    spares.put(line)
    spares.close()


def test_an_unfinished_one_goes_to_the_pool(pool: ConnectionPool[PooledConnection]) -> None:
    spares = ConnectionCache(pool)
    busy(spares)
    line = spares.get()
    line.execute("BEGIN")
    spares.put(line)
    assert len(spares) == 0
    assert line.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    spares.close()


def test_unused_ones_go_back_to_the_pool(pool: ConnectionPool[PooledConnection]) -> None:
    spares = ConnectionCache(pool)
    line = busy(spares)
    assert spares.sweep()
    line.checked_out_at -= 60
    assert not spares.sweep()
    assert (len(spares), pool.get_stats()["pool_available"]) == (0, 1)
    spares.close()


def test_old_ones_go_back_to_the_pool(pool: ConnectionPool[PooledConnection]) -> None:
    spares = ConnectionCache(pool)
    busy(spares)
    line = spares.get()
    line.checked_out_at -= 60
    spares.put(line)
    assert (len(spares), pool.get_stats()["pool_available"]) == (0, 1)
    spares.close()


def test_a_refusal_of_the_pool_is_forgotten(pool: ConnectionPool[PooledConnection]) -> None:
    spares = ConnectionCache(pool)
    lines = [spares.get(), spares.get()]
    pool.timeout = 0.01
    with pytest.raises(PoolTimeout):
        spares.get()
    for line in lines * 2:
        spares.put(line)
        spares.get()
    spares.put(lines[0])
    assert len(spares) == 1
    spares.close()
    pool.putconn(lines[1])


def test_an_asyncio_clients_connection_stays_at_hand_and_goes_back(dsn: str) -> None:
    async def run() -> None:
        pool = AsyncConnectionPool(
            dsn, connection_class=AsyncPooledConnection, kwargs=KWARGS, min_size=0, max_size=2, open=False
        )
        async with pool:
            spares = AsyncConnectionCache(pool)
            for _ in range(2):
                line = await spares.get()
                await spares.put(line)
            assert len(spares) == 1
            assert await spares.get() is line
            await spares.put(line)
            assert await spares.sweep()
            line.checked_out_at -= 60
            assert not await spares.sweep()
            assert (len(spares), pool.get_stats()["pool_available"]) == (0, 1)
            await spares.close()

    asyncio.run(run())

"""Pooled connections: statements without a cursor, and connections that the server closed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from guard_adapter import until
from patience import PATIENCE_S

from atlas_sdk._drive.connection_config import ConnectionConfig
from atlas_sdk._drive.pool import AsyncPool, Pool, has_news
from atlas_sdk._drive.pooled_connection import AsyncPooledConnection, PooledConnection
from atlas_sdk._plan import Json

KWARGS: dict[str, Any] = {"autocommit": True, "prepare_threshold": 1}


@pytest.fixture
def connection(dsn: str) -> Iterator[PooledConnection]:
    with PooledConnection.connect(dsn, **KWARGS) as made:
        yield made


# Statements without a cursor.

VALUES = {
    "text": ("text", "naïve % 'quoted'"),
    "integer": ("integer", 70_000),
    "bigint": ("bigint", 2**40),
    "numeric": ("numeric", Decimal("0.000000001")),
    "uuid": ("uuid", uuid.UUID(int=7)),
    "time": ("timestamptz", datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)),
    "interval": ("interval", timedelta(days=3, microseconds=5)),
    "bytes": ("bytea", b"\x00\xff"),
    "boolean": ("boolean", True),
    "list": ("text[]", ["a", None, "c"]),
    "null": ("text", None),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_come_back_as_through_a_cursor(connection: PooledConnection, name: str) -> None:
    kind, value = VALUES[name]
    text: Any = f"SELECT %(value)s::{kind} AS same, %(value)s::{kind} IS NULL AS missing, '%%' AS percent"
    by_cursor = connection.execute(text, {"value": value}).fetchall()
    # Execute it once unprepared, once while it is prepared, and once prepared.
    for _ in range(3):
        answer = connection.execute_prepared(text, {"value": value})
        assert answer.columns == ("same", "missing", "percent")
        assert answer.rows == by_cursor
        assert answer.count == 1


def test_json_goes_in_as_json(connection: PooledConnection) -> None:
    assert connection.execute_prepared("SELECT %(it)s AS it", {"it": Json({"a": [1, None]})}).rows == [
        ({"a": [1, None]},)
    ]


def test_rows_are_counted_without_a_result(connection: PooledConnection) -> None:
    connection.execute("CREATE TEMPORARY TABLE numbers (n integer)")
    for _ in range(3):
        answer = connection.execute_prepared("INSERT INTO numbers SELECT generate_series(1, %(n)s)", {"n": 5})
        assert (answer.columns, answer.rows, answer.count) == ((), [], 5)


def test_what_psycopg_has_made_the_server_forget_is_prepared_again(connection: PooledConnection) -> None:
    def execute_prepared() -> object:
        return connection.execute_prepared("SELECT %(n)s + 1", {"n": 1}).rows

    for _ in range(3):
        assert execute_prepared() == [(2,)]
    assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (1,)
    connection.execute("DEALLOCATE ALL")
    for _ in range(3):
        assert execute_prepared() == [(2,)]


def test_what_has_other_columns_by_now_is_prepared_again(connection: PooledConnection) -> None:
    connection.execute("CREATE TEMPORARY TABLE names (n integer, name text)")
    connection.execute("INSERT INTO names VALUES (1, 'ada')")

    def execute_prepared() -> object:
        return connection.execute_prepared("SELECT * FROM names WHERE n = %(n)s", {"n": 1}).rows

    def execute_in_transaction() -> object:
        return connection.execute_in_transaction(
            [b"BEGIN"], b"COMMIT", "SELECT * FROM names WHERE n = %(n)s", {"n": 1}
        ).rows

    for either in (execute_prepared, execute_in_transaction):
        for _ in range(3):
            assert either() == [(1, "ada")]
        connection.execute("ALTER TABLE names ADD COLUMN more integer")
        for _ in range(3):
            assert either() == [(1, "ada", None)]
        connection.execute("ALTER TABLE names DROP COLUMN more")


def test_as_many_as_fit_are_prepared_and_those_that_were_used_last(connection: PooledConnection) -> None:
    def execute_prepared(number: int, *, within: bool = False) -> None:
        text = f"SELECT %(n)s + {number}"
        answer = (
            connection.execute_in_transaction([b"BEGIN"], b"COMMIT", text, {"n": 1})
            if within
            else connection.execute_prepared(text, {"n": 1})
        )
        assert answer.rows == [(number + 1,)]

    for number in range(250):
        for _ in range(3):
            execute_prepared(number, within=number % 2 == 1)
        execute_prepared(0)
    names = connection.execute("SELECT statement FROM pg_prepared_statements WHERE name LIKE 'atlas%'").fetchall()
    assert len(names) in {100, 101}
    assert {("SELECT $1 + 0",), ("SELECT $1 + 249",)} <= set(names)


# A statement in a transaction of its own.


def within(connection: PooledConnection, text: str, **parameters: object) -> Any:
    return connection.execute_in_transaction(
        [b"BEGIN", b"SET LOCAL work_mem = '7MB'"], b"COMMIT", text, parameters
    ).rows


def test_a_transaction_of_its_own_begins_and_ends(connection: PooledConnection) -> None:
    for _ in range(3):
        assert within(connection, "SELECT current_setting(%(name)s)", name="work_mem") == [("7MB",)]
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert connection.execute_prepared("SELECT current_setting(%(name)s)", {"name": "work_mem"}).rows != [("7MB",)]


def test_an_error_within_is_psycopgs_and_keeps_nothing(connection: PooledConnection) -> None:
    connection.execute("CREATE TEMPORARY TABLE numbers (n integer)")
    for _ in range(3):
        with pytest.raises(psycopg.errors.DivisionByZero):
            within(connection, "INSERT INTO numbers SELECT 1 / %(n)s", n=0)
        connection.rollback()
    assert connection.execute("SELECT count(*) FROM numbers").fetchone() == (0,)


def test_an_error_at_the_end_is_told(connection: PooledConnection) -> None:
    connection.execute("CREATE TEMPORARY TABLE numbers (n integer UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    within(connection, "INSERT INTO numbers VALUES (%(n)s)", n=1)
    for _ in range(3):
        with pytest.raises(psycopg.errors.UniqueViolation):
            within(connection, "INSERT INTO numbers VALUES (%(n)s)", n=1)
        connection.rollback()
    assert connection.execute("SELECT count(*) FROM numbers").fetchone() == (1,)


def test_what_the_server_has_forgotten_is_asked_within_again(connection: PooledConnection) -> None:
    for _ in range(3):
        for _ in range(3):
            assert within(connection, "SELECT %(n)s + 1", n=1) == [(2,)]
        connection.execute("DISCARD ALL", prepare=False)


def test_nothing_is_prepared_where_that_is_off(dsn: str) -> None:
    with PooledConnection.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        for _ in range(3):
            assert connection.execute_prepared("SELECT %(n)s + 1", {"n": 1}).rows == [(2,)]
        assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)


def test_an_error_is_psycopgs_and_leaves_the_connection_usable(connection: PooledConnection) -> None:
    for _ in range(3):
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute_prepared("SELECT 1 / %(n)s", {"n": 0})
    assert connection.execute_prepared("SELECT 1 / %(n)s", {"n": 1}).rows == [(1,)]


def sleeps(dsn: str, pid: int) -> bool:
    with psycopg.connect(dsn) as other:
        row = other.execute("SELECT wait_event FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone()
    return row == ("PgSleep",)


def test_a_cancelled_task_leaves_the_connection_usable(dsn: str) -> None:
    async def run() -> object:
        async with await AsyncPooledConnection.connect(dsn, **KWARGS) as connection:
            task = asyncio.create_task(connection.execute_prepared("SELECT pg_sleep(%(s)s)", {"s": 60}))
            await asyncio.to_thread(until, lambda: sleeps(dsn, connection.info.backend_pid))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return (await connection.execute_prepared("SELECT %(n)s + 1", {"n": 1})).rows

    assert asyncio.run(run()) == [(2,)]


# Connections that the server closes or writes to.


@pytest.fixture
def pool(dsn: str) -> Iterator[Pool]:
    made = Pool(ConnectionConfig(dsn, connect_timeout_s=PATIENCE_S))
    made.open()
    yield made
    made.close()


def end_all(dsn: str, connections: list[Any]) -> None:
    with psycopg.connect(dsn, autocommit=True) as other:
        for connection in connections:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))


def test_a_connection_that_the_server_closed_is_replaced(dsn: str, pool: Pool) -> None:
    connection = pool.get()
    pool.put(connection)
    end_all(dsn, [connection])
    fresh = pool.get()
    assert fresh is not connection
    assert fresh.execute_prepared("SELECT %(n)s + 1", {"n": 1}).rows == [(2,)]
    pool.put(fresh)
    assert pool.stats().lost == 1


def test_after_a_restart_of_the_server_the_next_statement_succeeds(dsn: str, pool: Pool) -> None:
    """All connections are dead. The pool's own check could not replace so many in the time that a caller waits."""
    connections = [pool.get() for _ in range(6)]
    for connection in connections:
        pool.put(connection)
    end_all(dsn, connections)
    fresh = pool.get()
    assert fresh.execute_prepared("SELECT %(n)s + 1", {"n": 1}).rows == [(2,)]
    pool.put(fresh)


def test_after_a_restart_of_the_server_the_next_asyncio_statement_succeeds(dsn: str) -> None:
    async def run() -> None:
        pool = AsyncPool(ConnectionConfig(dsn, connect_timeout_s=PATIENCE_S))
        await pool.open()
        connections = [await pool.get() for _ in range(6)]
        for connection in connections:
            await pool.put(connection)
        end_all(dsn, connections)
        fresh = await pool.get()
        assert (await fresh.execute_prepared("SELECT %(n)s + 1", {"n": 1})).rows == [(2,)]
        await pool.put(fresh)
        await pool.close()

    asyncio.run(run())


def test_a_connection_with_a_notification_is_not_replaced(dsn: str, pool: Pool) -> None:
    connection = pool.get()
    connection.execute("LISTEN told")
    pool.put(connection)
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("NOTIFY told")
    until(lambda: has_news(connection))
    assert pool.get() is connection
    pool.put(connection)


def test_an_open_transaction_is_rolled_back(pool: Pool) -> None:
    connection = pool.get()
    connection.execute("BEGIN")
    pool.put(connection)
    assert pool.get() is connection
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    pool.put(connection)

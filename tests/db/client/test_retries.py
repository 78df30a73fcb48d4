"""Calls are repeated only if it is certain that nothing of them was kept."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from client_adapter import AwaitedClient, Open

from atlas_sdk import Atlas, DatabaseError, DatabaseUnreachable, TransactionConflict
from atlas_sdk._drive.pooled_connection import AsyncPooledConnection, PooledConnection, StatementCache
from atlas_sdk._namespaces import AsyncNamespace, Namespace, method
from atlas_sdk._plan import Plan, atomic, execute, local, scalar
from atlas_sdk._sql import Statement

_READ = Statement("test.read", "SELECT count(*) FROM users WHERE name = %(name)s", reads=True)
_WRITE = Statement("test.write", "UPDATE users SET name = name || %(name)s")


@contextmanager
def failing(dsn: str, *, state: str, times: int, at: str = "BEFORE UPDATE") -> Iterator[psycopg.Connection[Any]]:
    """Make changes to users fail with an SQLSTATE so many times. A sequence counts, because no rollback undoes it."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        ends = "PERFORM pg_terminate_backend(pg_backend_pid());" if state == "57P01" else ""
        connection.execute(
            f"""
            CREATE SEQUENCE attempts;
            GRANT USAGE ON SEQUENCE attempts TO public;
            CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF nextval('attempts') <= {times} THEN
                    {ends}
                    RAISE EXCEPTION 'no' USING ERRCODE = '{state}';
                END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER fails {at} ON users FOR EACH ROW EXECUTE FUNCTION fail();
            """
        )
        yield connection


def attempts(connection: psycopg.Connection[Any]) -> int:
    found = connection.execute("SELECT last_value FROM attempts").fetchone()
    assert found is not None
    return int(found[0])


def run(client: Any, operation: Callable[..., Plan[Any]]) -> Any:
    """Run a plan as a method of a client does."""
    is_async = isinstance(client, AwaitedClient)
    kind: Any = type("Topic", (AsyncNamespace if is_async else Namespace,), {"operation": method(operation)})
    runner = client.users._runner
    made = kind(runner).operation()
    return client._adapter.do(made) if is_async else made


@pytest.mark.every_server
@pytest.mark.parametrize("state", ["40001", "40P01", "57P01"])
def test_what_the_server_undid_is_done_again(
    open_client: Open, dsn: str, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="atlas_sdk.retries")
    client = open_client(dsn)
    user = client.users.create("ada@example.com", name="Ada")
    with failing(dsn, state=state, times=2) as connection:
        assert client.users.update(user, name="Grace").name == "Grace"
        assert attempts(connection) == 3
    told = [record.getMessage() for record in caplog.records if record.name == "atlas_sdk.retries"]
    why = "no connection" if state == "57P01" else "another transaction was in the way"
    assert told == [f"update: {why}; once more (1 of 3)", f"update: {why}; once more (2 of 3)"]
    # The three attempts wrote one event.
    assert [event.type for event in client.events.recent(user)].count("user.updated") == 1


@pytest.mark.parametrize("state", ["40001", "57P01"])
def test_attempts_are_bounded(open_client: Open, dsn: str, state: str) -> None:
    client = open_client(dsn)
    user = client.users.create("ada@example.com", name="Ada")
    with failing(dsn, state=state, times=99) as connection:
        with pytest.raises((TransactionConflict, DatabaseUnreachable)) as failure:
            client.users.update(user, name="Grace")
        assert attempts(connection) == 4
    assert failure.value.repeatable
    assert client.users.get(user.id).name == "Ada"


def test_retries_can_be_turned_off(open_client: Open, dsn: str) -> None:
    client = open_client(dsn, retries=0)
    user = client.users.create("ada@example.com", name="Ada")
    with failing(dsn, state="40001", times=1) as connection:
        with pytest.raises(TransactionConflict) as failure:
            client.users.update(user, name="Grace")
        assert attempts(connection) == 1
    assert failure.value.repeatable


def test_nothing_is_repeated_in_a_callers_transaction(open_client: Open, dsn: str) -> None:
    client = open_client(dsn)
    user = client.users.create("ada@example.com", name="Ada")
    with failing(dsn, state="40001", times=1) as connection:
        with pytest.raises(TransactionConflict) as failure, client.transaction() as tx:
            tx.users.update(user, name="Grace")
        assert attempts(connection) == 1
    assert not failure.value.repeatable


def test_a_lost_connection_is_not_survived_by_a_callers_transaction(open_client: Open, dsn: str) -> None:
    """Not even a statement that only reads is repeated, because the earlier part of the transaction is lost."""
    client = open_client(dsn)
    with pytest.raises(DatabaseUnreachable) as failure, client.transaction() as tx:
        tx.users.create("ada@example.com")
        cut_all(client)
        tx.users.list()
    assert not failure.value.repeatable
    assert client.users.list() == []


def test_other_errors_are_not_repeated(open_client: Open, dsn: str) -> None:
    client = open_client(dsn)
    user = client.users.create("ada@example.com", name="Ada")
    with failing(dsn, state="XX000", times=1) as connection:
        with pytest.raises(DatabaseError) as failure:
            client.users.update(user, name="Grace")
        assert attempts(connection) == 1
    assert not failure.value.repeatable


def test_what_was_kept_before_is_not_done_twice(open_client: Open, dsn: str) -> None:
    """The first of two writes was committed, so the whole call cannot be repeated."""

    def twice() -> Plan[int]:
        yield from execute(Statement("test.log", "UPDATE users SET plan = %(name)s"), name="pro")
        return (yield from execute(_WRITE, name="!"))

    client = open_client(dsn)
    client.users.create("ada@example.com", name="Ada")
    with failing(dsn, state="40001", times=1, at="BEFORE UPDATE OF name") as connection:
        with pytest.raises(TransactionConflict) as failure:
            run(client, twice)
        assert attempts(connection) == 1
    assert not failure.value.repeatable


def test_a_committed_part_is_not_done_twice(open_client: Open, dsn: str) -> None:
    @atomic
    def first() -> Plan[int]:
        return (yield from execute(Statement("test.plan", "UPDATE users SET plan = %(name)s"), name="pro"))

    def both() -> Plan[int]:
        yield from first()
        return (yield from execute(_WRITE, name="!"))

    client = open_client(dsn)
    client.users.create("ada@example.com", name="Ada")
    with failing(dsn, state="40001", times=1, at="BEFORE UPDATE OF name") as connection:
        with pytest.raises(TransactionConflict):
            run(client, both)
        assert attempts(connection) == 1


def test_what_was_only_read_before_is_read_again(open_client: Open, dsn: str) -> None:
    ran = []

    def read_and_write() -> Plan[int]:
        ran.append((yield from scalar(_READ, int, name="Ada")))
        return (yield from execute(_WRITE, name="!"))

    client = open_client(dsn)
    client.users.create("ada@example.com", name="Ada")
    with failing(dsn, state="40001", times=2, at="BEFORE UPDATE OF name"):
        assert run(client, read_and_write) == 1
    assert ran == [1, 1, 1]


@pytest.mark.parametrize("kind", ["read", "in transaction"])
def test_a_lost_connection_is_survived_where_nothing_was_kept(open_client: Open, dsn: str, kind: str) -> None:
    """The client's side of the socket is shut down right before the statement, as if the network had failed."""
    client = open_client(dsn)
    client.users.create("ada@example.com", name="Ada")
    ran: list[str] = []

    def cut() -> None:
        if len(ran) < 2:
            cut_all(client)
        ran.append("cut")

    def reads() -> Plan[int]:
        return (yield from scalar(_READ, int, name="Ada"))

    @atomic
    def writes() -> Plan[int]:
        yield from execute(_WRITE, name="!")
        yield from local(cut)
        return (yield from execute(_WRITE, name="?"))

    if kind == "read":
        with cutting(client, times=2) as counted:
            assert run(client, reads) == 1
        assert counted == [2]
    else:
        assert run(client, writes) == 1
        assert len(ran) == 3
        assert [user.name for user in client.users.list()] == ["Ada!?"]


def test_a_write_whose_answer_was_lost_is_not_repeated(open_client: Open, dsn: str) -> None:
    client = open_client(dsn)
    client.users.create("ada@example.com", name="Ada")

    def writes() -> Plan[int]:
        return (yield from execute(_WRITE, name="!"))

    with cutting(client, times=1), pytest.raises(DatabaseUnreachable, match="it was done is unknown") as failure:
        run(client, writes)
    assert not failure.value.repeatable


def test_a_commit_whose_answer_was_lost_is_not_repeated(open_client: Open, dsn: str) -> None:
    client = open_client(dsn)
    client.users.create("ada@example.com", name="Ada")

    @atomic
    def writes() -> Plan[int]:
        count = yield from execute(_WRITE, name="!")
        yield from local(cut_all, client)
        return count

    with pytest.raises(DatabaseUnreachable, match="whether it was done is unknown") as failure:
        run(client, writes)
    assert not failure.value.repeatable


def lines_of(client: Any) -> list[Any]:
    """Return every open connection of a client."""
    return [
        each
        for each in gc.get_objects()
        if isinstance(each, (PooledConnection, AsyncPooledConnection)) and not each.closed
    ]


def cut_all(client: Any) -> None:
    """Shut down the sockets of a client's connections. The next read or write on them fails."""
    for each in lines_of(client):
        line = socket.socket(fileno=os.dup(each.pgconn.socket))
        line.shutdown(socket.SHUT_RDWR)
        line.close()


@contextmanager
def cutting(client: Any, *, times: int) -> Iterator[list[int]]:
    """Shut down the client's sockets right before a statement of a test is sent, so many times."""
    done = [0]
    execute_prepared = StatementCache.execute_prepared

    def cut_and_execute(statements: Any, text: str, parameters: Any) -> Any:
        if done[0] < times and text in {_READ.text, _WRITE.text}:
            done[0] += 1
            cut_all(client)
        return execute_prepared(statements, text, parameters)

    StatementCache.execute_prepared = cut_and_execute  # type: ignore[method-assign]
    try:
        yield done
    finally:
        StatementCache.execute_prepared = execute_prepared  # type: ignore[method-assign]


def test_a_procedure_is_not_repeated(open_client: Open, dsn: str) -> None:
    """A procedure may have committed a part of its work."""
    client = open_client(dsn)
    user = client.users.create("ada@example.com")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            """
            CREATE SEQUENCE attempts;
            CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM nextval('attempts'); RAISE EXCEPTION 'no' USING ERRCODE = '40001'; END $$;
            CREATE TRIGGER fails BEFORE INSERT ON quota_reservations FOR EACH ROW EXECUTE FUNCTION fail();
            """
        )
        with pytest.raises(TransactionConflict) as failure:
            client.quotas.reserve(user, tokens=1)
        assert attempts(connection) == 1
    assert not failure.value.repeatable


def test_readers_survive_that_the_server_ends_their_connections(dsn: str) -> None:
    """The server ends connections at random moments: before a statement is sent, while it runs, before the answer."""

    def end_all() -> int:
        with psycopg.connect(dsn, autocommit=True) as connection:
            return connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() AND wait_event IS NOT NULL"
            ).fetchall()[0][0]

    with Atlas.open(dsn) as client, ThreadPoolExecutor(1) as threads:
        user = client.users.create("ada@example.com", name="Ada")
        ended = 0
        while ended < 10:
            ending = threads.submit(end_all)
            while not ending.done():
                assert client.users.get(user.id).id == user.id
            ended += ending.result()

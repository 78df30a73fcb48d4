"""The mark `(read)` of a statement: a marked statement changes nothing, and no statement that only reads lacks it."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest
from psycopg import pq
from psycopg._queries import PostgresQuery
from psycopg.adapt import Transformer

from atlas_sdk._sql import Statement, read_statements, topics

ALL = [statement for topic in topics() for statement in read_statements(topic).values()]
#: Functions that PostgreSQL calls volatile because their results change, although they change no data.
_HARMLESS = {"clock_timestamp", "pg_database_size"}
_CALLED = re.compile(r"\b([a-z_]\w*)\(", re.IGNORECASE)


def sqlstate_when_read_only(connection: psycopg.Connection[Any], statement: Statement) -> bytes | None:
    """Execute a statement in a READ ONLY transaction, with NULL for each parameter; return its SQLSTATE, if any."""
    query = PostgresQuery(Transformer())
    names = set(re.findall(r"%\((\w+)\)s", statement.text))
    query.convert(statement.text, dict.fromkeys(names) if names else None)
    connection.execute("BEGIN READ ONLY")
    try:
        done = connection.pgconn.exec_params(query.query, [None] * len(names))
    finally:
        connection.execute("ROLLBACK")
    return done.error_field(pq.DiagnosticField.SQLSTATE)


def volatile_calls(connection: psycopg.Connection[Any], statement: Statement) -> set[str]:
    """Return the functions that a statement calls and that may change something."""
    called = {name.lower() for name in _CALLED.findall(statement.plain)} - _HARMLESS
    rows = connection.execute(
        "SELECT DISTINCT proname FROM pg_proc WHERE provolatile = 'v' AND proname = ANY (%s)", (sorted(called),)
    )
    return {name for (name,) in rows.fetchall()}


def changes_nothing(connection: psycopg.Connection[Any], statement: Statement) -> bool:
    state = sqlstate_when_read_only(connection, statement)
    return state is None and not volatile_calls(connection, statement)


@pytest.mark.every_server
def test_marked_statements_change_nothing(migrated: psycopg.Connection[Any]) -> None:
    for statement in ALL:
        if statement.reads:
            state = sqlstate_when_read_only(migrated, statement)
            assert state is None, f"{statement.name}: {state!r}"
            assert not volatile_calls(migrated, statement), statement.name


def test_no_statement_that_only_reads_lacks_the_mark(migrated: psycopg.Connection[Any]) -> None:
    """An unmarked statement is never repeated after a lost connection, even if it could be."""
    unmarked = [each for each in ALL if not each.reads and each.plain.startswith(("SELECT", "WITH", "VALUES"))]
    forgotten = [each.name for each in unmarked if changes_nothing(migrated, each)]
    assert not forgotten, " ".join(forgotten)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT 1", True),
        ("WITH a AS (SELECT 1) SELECT count(*) FROM a", True),
        ("WITH a AS (DELETE FROM users RETURNING id) SELECT count(*) FROM a", False),
        ("SELECT id FROM users FOR UPDATE", False),
        ("SELECT id FROM users FOR NO KEY UPDATE", False),
        ("SELECT quota_settle(NULL, NULL, NULL, NULL, NULL)", False),
        ("SELECT pg_notify('a', 'b')", False),
        ("SELECT pg_advisory_xact_lock(1)", False),
        ("UPDATE users SET name = ''", False),
    ],
)
def test_statements_that_write_are_recognised(migrated: psycopg.Connection[Any], text: str, *, expected: bool) -> None:
    assert changes_nothing(migrated, Statement("test", text)) is expected


def test_well_known_statements_have_the_right_mark() -> None:
    reads = {statement.name for statement in ALL if statement.reads}
    assert {"users.get", "users.by_email", "projects.get", "projects.list", "memory.files", "builds.get"} <= reads
    writes = {"users.create", "users.lock", "quotas.reserve", "quotas.settle", "schema.lock", "notifications.send"}
    assert not writes & reads

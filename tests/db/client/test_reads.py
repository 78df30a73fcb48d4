"""Which statements are taken for harmless to repeat: those that surely change nothing."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from atlas_sdk._sql import _HARMLESS, Statement, statements, topics

#: Volatile by their nature, and yet they change nothing.
_VOLATILE = {"clock_timestamp", "pg_database_size"}


def test_harmless_functions_change_nothing(migrated: psycopg.Connection[Any]) -> None:
    """Nothing that PostgreSQL calls volatile is on the list, in any schema."""
    rows = migrated.execute(
        "SELECT DISTINCT proname FROM pg_proc WHERE provolatile = 'v' AND proname = ANY (%s)", (sorted(_HARMLESS),)
    ).fetchall()
    assert {name for (name,) in rows} <= _VOLATILE


def test_functions_of_ours_are_named_in_full(migrated: psycopg.Connection[Any]) -> None:
    """A name on the list that is no function any more is a mistake."""
    known = {name for (name,) in migrated.execute("SELECT DISTINCT proname FROM pg_proc")}
    syntax = {"any", "coalesce", "exists", "extract", "greatest", "least", "nullif"}
    assert _HARMLESS - known - syntax == set()


def test_statements_that_read_are_known() -> None:
    """Most reads are repeated; a list that shrinks says that a function is missing in `_HARMLESS`."""
    reads = {statement.name for topic in topics() for statement in statements(topic).values() if statement.reads}
    wanted = {"users.get", "users.by_email", "projects.get", "projects.list", "memory.files", "builds.get"}
    assert wanted <= reads
    writes = {"users.create", "users.lock", "quotas.reserve", "quotas.settle", "schema.lock", "notifications.send"}
    assert not writes & reads


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("SELECT 1", True),
        ("-- a comment\nSELECT 1", True),
        ("WITH a AS (SELECT 1) SELECT count(*) FROM a", True),
        ("SELECT 1 -- then UPDATE it elsewhere", True),
        ("WITH a AS (DELETE FROM users RETURNING id) SELECT count(*) FROM a", False),
        ("SELECT id FROM users FOR UPDATE", False),
        ("SELECT id FROM users FOR NO KEY UPDATE", False),
        ("SELECT quota_settle(%(a)s)", False),
        ("SELECT nextval('a')", False),
        ("SELECT id INTO copy FROM users", False),
        ("select quota_Reserve(1)", False),
        ("CALL anything()", False),
        ("UPDATE users SET name = ''", False),
        ("SET x = 1", False),
    ],
)
def test_a_statement_is_judged_by_its_text(text: str, *, reads: bool) -> None:
    assert Statement("test", text).reads is reads

"""Tables, views and columns that people query with psql have comments."""

from __future__ import annotations

from typing import Any

import psycopg

#: Tables and views of the contract. Their columns have comments too.
CONTRACT = [
    *("users", "user_quotas", "projects", "builds", "previews", "memory_snapshots", "usage_ledger", "events"),
    *("sessions", "schema_version", "user_usage_summary", "project_health"),
]


def test_every_table_and_view_has_a_comment(migrated: psycopg.Connection[Any]) -> None:
    rows = migrated.execute("""
        SELECT relname, obj_description(oid, 'pg_class') FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')
    """).fetchall()
    assert {name for name, _ in rows} > set(CONTRACT)
    assert [name for name, comment in rows if not comment] == []


def test_every_column_of_the_contract_has_a_comment(migrated: psycopg.Connection[Any]) -> None:
    rows = migrated.execute(
        """
        SELECT attrelid::regclass::text, attname, col_description(attrelid, attnum) FROM pg_attribute
        WHERE attrelid = ANY (%s::regclass[]) AND attnum > 0 AND NOT attisdropped
        """,
        (CONTRACT,),
    ).fetchall()
    assert {table for table, *_ in rows} == set(CONTRACT)
    assert [f"{table}.{column}" for table, column, comment in rows if not comment] == []

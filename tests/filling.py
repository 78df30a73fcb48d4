"""Functions that fill every table of a database, and fingerprints of tables to compare two databases."""

from __future__ import annotations

import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from atlas_sdk import Atlas

__all__ = ["counts", "fill", "prints"]

#: Add rows that otherwise appear only after time has passed or a background job has run.
_BY_HAND = (
    """INSERT INTO quota_history (user_id, period_start, period_end, tokens_used, tokens_limit, cost_used, closed_at)
       SELECT id, created_at - interval '1 month', created_at, 0, 9, 0, created_at FROM users""",
    "INSERT INTO quota_waiters SELECT id, gen_random_uuid(), 1, now(), now() + interval '15 s' FROM users",
    # Each text has characters that a dump escapes.
    r"""INSERT INTO events (type, user_id, meta, user_agent)
        SELECT 'odd', id, jsonb_build_object('text', E'tab\t line\n dot\n\\.\n quote '' back \\ é 日本'), E'\\N \\.\t'
        FROM users""",
)
_IF_EMPTY = {
    "maintenance_runs": "INSERT INTO maintenance_runs (id, whole) VALUES (gen_random_uuid(), true)",
}


def fill(dsn: str, folder: Path) -> None:
    """Put rows of two tenants into every table of a migrated database."""
    folder.mkdir(exist_ok=True)
    with Atlas.open(dsn) as atlas:
        for name in ("ada", "bob"):
            _tenant(atlas, name, folder)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in _BY_HAND:
            connection.execute(statement)  # type: ignore[call-overload]
        for table in [name for name, amount in counts(dsn).items() if not amount]:
            connection.execute(_IF_EMPTY[table])  # type: ignore[call-overload]
    assert all(counts(dsn).values()), counts(dsn)


def _tenant(atlas: Atlas, name: str, folder: Path) -> None:
    user = atlas.users.create(f"{name}@example.com", name=name.title(), plan="pro")
    root = folder / name
    root.mkdir()
    project = atlas.projects.create(user, path=root, session_id=f"session-{name}")
    for number in range(30):
        atlas.memory.snapshot(project, "CLAUDE.md", b"# Rules of %s\n" % name.encode() + b"- be kind\n" * number)
    atlas.memory.snapshot(project, "raw.md", bytes(range(256)) * 20)
    atlas.memory.checkpoint(project, "first")
    atlas.memory.delete(project, "raw.md")
    atlas.memory.restore(project, "first")
    build = atlas.builds.start(atlas.builds.create(project))
    atlas.builds.succeed(build)
    # The log of a running build is in a table of its own.
    atlas.builds.append_log(atlas.builds.start(atlas.builds.create(project)), "step 1\nstep 2\n")
    preview = atlas.previews.create(project, host=f"{name}.example.com")
    atlas.previews.allocate_port(preview, ports=range(4000, 4100))
    atlas.quotas.reserve(user, tokens=100, cost="0.5", slots=1, holder="worker")
    settled = atlas.quotas.reserve(user, tokens=50)
    atlas.quotas.settle(user, settled.id, tokens=40)
    atlas.quotas.grant(user, tokens=1_000, expires_in=timedelta(days=30), reason="thanks")
    with psycopg.connect(atlas.url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO sessions (user_id, token_hash, expires_at) VALUES (%s, %s, now() + interval '1 day')",
            (user.id, uuid.uuid4().bytes * 2),
        )


def counts(dsn: str) -> dict[str, int]:
    """Count the rows of every table."""
    return {table: amount for table, (amount, _) in prints(dsn).items()}


def prints(dsn: str) -> dict[str, tuple[int, str]]:
    """Return, for every table, the number of its rows and the MD5 of all its rows.

    Leave out `user_quotas.epoch`, which a load raises.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        found: dict[str, tuple[int, str]] = {}
        for schema, table in _tables(connection):
            shown = sql.SQL("(to_jsonb(t) - 'epoch')::text" if table == "user_quotas" else "t::text")
            row = connection.execute(
                sql.SQL(
                    "SELECT count(*), md5(string_agg({0}, E'\\n' ORDER BY {0} COLLATE \"C\")) FROM {1} AS t"
                ).format(shown, sql.Identifier(schema, table))
            ).fetchone()
            assert row is not None
            found[table] = row
    return found


def _tables(connection: psycopg.Connection[Any]) -> list[tuple[str, str]]:
    return connection.execute(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') "
        "ORDER BY tablename"
    ).fetchall()

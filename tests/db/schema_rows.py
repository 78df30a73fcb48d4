"""Rows for the tests of the schema."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

NOW = datetime.now(UTC)


def query(conn: psycopg.Connection[Any], statement: str, **parameters: object) -> list[tuple[Any, ...]]:
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


def insert(conn: psycopg.Connection[Any], table: str, **columns: object) -> uuid.UUID:
    """Insert one row, with a new id unless the caller gives one; return its id."""
    row = {"id": uuid.uuid4(), **columns}
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(map(sql.Placeholder, row)),
    )
    conn.execute(statement, {name: Jsonb(v) if isinstance(v, dict | list) else v for name, v in row.items()})
    return row["id"]


def new_user(conn: psycopg.Connection[Any], **columns: object) -> uuid.UUID:
    return insert(conn, "users", **{"email": f"{uuid.uuid4().hex}@example.com", **columns})


def new_project(conn: psycopg.Connection[Any], user_id: uuid.UUID, **columns: object) -> uuid.UUID:
    tag = uuid.uuid4().hex
    row = {"user_id": user_id, "session_id": tag, "name": tag, "path": f"/{tag}"}
    return insert(conn, "projects", **{**row, **columns})


def new_file(conn: psycopg.Connection[Any], user_id: uuid.UUID, project_id: uuid.UUID, path: str, *sizes: int) -> None:
    """Write one version for each size; a size of -1 is a deletion."""
    ids = [uuid.uuid4() for _ in sizes]
    contents = [i for i, size in zip(ids, sizes, strict=True) if size >= 0]
    conn.execute(
        "INSERT INTO memory_files (user_id, project_id, path, snapshot_id, content_id, seq) VALUES (%s,%s,%s,%s,%s,%s)",
        (user_id, project_id, path, ids[-1], contents[-1], len(ids)),
    )
    for seq, (snapshot_id, size) in enumerate(zip(ids, sizes, strict=True), start=1):
        digest = uuid.uuid4().bytes * 2 if size >= 0 else None
        if digest:
            conn.execute(
                "INSERT INTO memory_blobs (user_id, sha256, size, data) VALUES (%s, %s, %s, 'x')",
                (user_id, digest, size),
            )
        row = {"project_id": project_id, "path": path, "seq": seq, "sha256": digest, "size": max(size, 0)}
        insert(conn, "memory_snapshots", id=snapshot_id, user_id=user_id, kind="auto", **row)


# The tables and a valid row of each.

TABLES = [
    *("users", "user_quotas", "projects", "builds", "previews"),
    *("memory_snapshots", "usage_ledger", "events", "sessions", "claims"),
]


def minimal(conn: psycopg.Connection[Any], table: str) -> dict[str, object]:
    """Return a valid row of the table, and store the rows to which it refers."""
    if table == "users":
        return {"email": f"{uuid.uuid4().hex}@example.com"}
    user_id = new_user(conn)
    own = {"user_id": user_id}
    if table == "sessions":
        return {**own, "token_hash": uuid.uuid4().bytes * 2, "expires_at": NOW + timedelta(days=1)}
    if table == "events":
        return {**own, "type": "test"}
    if table == "projects":
        return {**own, "session_id": "s", "name": "n", "path": "/p"}
    if table == "usage_ledger":
        return {**own, "kind": "tokens", "amount": 1, "period_start": datetime(2026, 1, 1, tzinfo=UTC)}
    own["project_id"] = new_project(conn, user_id)
    return own if table == "builds" else {**own, "host": f"{uuid.uuid4().hex}.example.com"}

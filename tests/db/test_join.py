"""Operations in a caller's transaction, on the caller's connection: both are committed, or both rolled back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from atlas_sdk import AsyncAtlas, Atlas, InvalidInput, NotFound


def orders(connection: psycopg.Connection[Any]) -> None:
    connection.execute("CREATE TABLE orders (name text)")
    connection.commit()


def test_both_commit_or_neither(atlas: Atlas, dsn: str) -> None:
    user = atlas.users.create("ada@example.com")
    project = atlas.projects.create(user, path="/srv/app")
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        orders(connection)
        connection.execute("INSERT INTO orders VALUES ('first')")
        joined = atlas.join(connection)
        joined.events.log("order.placed", user=user)
        joined.memory.snapshot(project, "CLAUDE.md", b"# one\n")
        assert [event.type for event in atlas.events.search(user, event_type="order.placed")] == []
        connection.rollback()
        assert connection.execute("SELECT count(*) AS n FROM orders").fetchone() == {"n": 0}
        assert atlas.memory.files(project) == []

        connection.execute("INSERT INTO orders VALUES ('second')")
        joined.memory.snapshot(project, "CLAUDE.md", b"# one\n")
        joined.events.log("order.placed", user=user)
        connection.commit()
    assert len(atlas.events.search(user, event_type="order.placed")) == 1
    assert atlas.memory.read(project, "CLAUDE.md") == b"# one\n"
    assert not atlas.memory.verify(user).broken


def test_a_failed_operation_leaves_the_callers_work(atlas: Atlas, dsn: str) -> None:
    user = atlas.users.create("ada@example.com")
    with psycopg.connect(dsn) as connection:
        orders(connection)
        connection.execute("INSERT INTO orders VALUES ('kept')")
        with pytest.raises(NotFound):
            atlas.join(connection).builds.get(user, user.id)
        with pytest.raises(Exception, match="taken|exists|already"):
            atlas.join(connection).users.create("ada@example.com")
        connection.commit()
        assert connection.execute("SELECT name FROM orders").fetchall() == [("kept",)]


def test_joins_a_block_of_a_connection_that_commits_by_itself(atlas: Atlas, dsn: str) -> None:
    user = atlas.users.create("ada@example.com")
    with psycopg.connect(dsn, autocommit=True) as connection:
        with pytest.raises(InvalidInput, match="transaction"):
            atlas.join(connection)
        with pytest.raises(ZeroDivisionError), connection.transaction():
            atlas.join(connection).events.log("order.placed", user=user)
            _ = 1 / 0
        with connection.transaction():
            atlas.join(connection).events.log("order.paid", user=user)
    types = {event.type for event in atlas.events.search(user)}
    assert "order.paid" in types
    assert "order.placed" not in types
    with pytest.raises(InvalidInput, match="closed"):
        atlas.join(connection)


def test_an_asyncio_connection(atlas: Atlas, dsn: str) -> None:
    user = atlas.users.create("ada@example.com")

    async def both() -> None:
        async with AsyncAtlas.open(dsn) as client, await psycopg.AsyncConnection.connect(dsn) as connection:
            await client.join(connection).events.log("order.placed", user=user)
            await connection.rollback()
            await client.join(connection).events.log("order.paid", user=user)
            await connection.commit()

    asyncio.run(both())
    assert {event.type for event in atlas.events.search(user)} & {"order.placed", "order.paid"} == {"order.paid"}


def test_a_version_that_somebody_else_commits_is_seen_at_once(embedded: Atlas, folder: Path) -> None:
    """A client of the embedded server relies on versions that it knows. A commit without a message must end this."""
    user = embedded.users.create(f"{uuid4()}@example.com")
    project = embedded.projects.create(user, path=folder)
    for number in range(3):
        assert embedded.memory.snapshot(project, "CLAUDE.md", b"mine") is not None
        with psycopg.connect(embedded.url) as connection:
            joined = embedded.join(connection)
            if number == 2:
                joined.memory.delete(project, "CLAUDE.md")
            else:
                joined.memory.snapshot(project, "CLAUDE.md", b"theirs")
    assert embedded.memory.snapshot(project, "CLAUDE.md", b"mine") is not None
    assert embedded.memory.read(project, "CLAUDE.md") == b"mine"


def test_what_was_deleted_with_its_user_is_not_taken_for_kept(embedded: Atlas, folder: Path) -> None:
    user = embedded.users.create(f"{uuid4()}@example.com")
    project = embedded.projects.create(user, path=folder)
    embedded.memory.snapshot(project, "CLAUDE.md", b"mine")
    embedded.users.delete(user)
    with pytest.raises(NotFound):
        embedded.memory.snapshot(project, "CLAUDE.md", b"mine")


def test_rows_of_a_callers_connection_may_be_dictionaries(atlas: Atlas, dsn: str) -> None:
    user = atlas.users.create("ada@example.com")
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        assert atlas.join(connection).users.get(user.id) == user

    async def read() -> None:
        async with AsyncAtlas.open(dsn) as client, await psycopg.AsyncConnection.connect(dsn) as connection:
            connection.row_factory = dict_row
            assert await client.join(connection).users.get(user.id) == user

    asyncio.run(read())

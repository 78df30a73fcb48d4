"""Real client libraries, a provider on loopback, a real database."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from provider_stub import Stub
from sides import AsyncSide, Books, Side

from atlas_sdk import AsyncAtlas, Atlas, User


@pytest.fixture(scope="session")
def _made() -> list[str]:
    return []


@pytest.fixture
def dsn(_made: list[str], _template: Any) -> str:
    """A migrated database that these tests share: every test has users of its own."""
    if not _made:
        url = _template("embedded")
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE atlas_template")
        head, _, tail = url.partition("?")
        _made.append(f"{head.rsplit('/', 1)[0]}/{name}?{tail}")
    return _made[0]


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub().serving() as served:
        yield served


@pytest.fixture
def user(atlas: Atlas) -> User:
    """Somebody without limits."""
    made = atlas.users.create(f"{uuid.uuid4()}@example.com")
    atlas.quotas.set_limits(made, tokens=None, cost=None, containers=None, requests_per_hour=None, builds_per_day=None)
    return made


@pytest.fixture
def books(atlas: Atlas, dsn: str, user: User) -> Books:
    return Books(atlas, dsn, user)


@pytest.fixture(params=["blocking", "asyncio"])
def side(request: pytest.FixtureRequest, dsn: str, atlas: Atlas, user: User, stub: Stub) -> Iterator[Side]:
    """Clients of one kind, on one database."""
    if request.param == "blocking":
        blocking = Side(atlas, user, stub)
        yield blocking
        blocking.close()
        return
    loop = asyncio.new_event_loop()
    client = AsyncAtlas.open(dsn)
    loop.run_until_complete(client.connect())
    awaited = AsyncSide(client, user, stub, loop)
    yield awaited
    awaited.close()
    loop.run_until_complete(client.close())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()

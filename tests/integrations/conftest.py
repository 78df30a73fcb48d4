"""Fixtures with real client libraries, a provider on loopback and a real database."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from databases import OfServer
from fastapi_service import Service
from memory_quotas import USER, AsyncMemoryQuotas, MemoryQuotas
from provider_stub import Stub
from sides import AsyncSide, Ledger, Side

from atlas_sdk import AsyncAtlas, Atlas, User


@pytest.fixture(scope="session")
def _shared(databases: OfServer) -> Iterator[str]:
    with databases("embedded").made() as url:
        yield url


@pytest.fixture
def dsn(_shared: str) -> str:
    """Return the URL of a migrated database that these tests share. Every test has users of its own."""
    return _shared


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub().serving() as served:
        yield served


@pytest.fixture
def user(atlas: Atlas) -> User:
    """Return a user without limits."""
    made = atlas.users.create(f"{uuid.uuid4()}@example.com")
    atlas.quotas.set_limits(made, tokens=None, cost=None, containers=None, requests_per_hour=None, builds_per_day=None)
    return made


@pytest.fixture
def books(atlas: Atlas, dsn: str, user: User) -> Ledger:
    return Ledger(atlas, dsn, user)


@pytest.fixture(params=["blocking", "asyncio"])
def side(request: pytest.FixtureRequest, dsn: str, atlas: Atlas, user: User, stub: Stub) -> Iterator[Side]:
    """Yield clients of one kind, once of each kind."""
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


@pytest.fixture(params=["blocking", "asyncio"])
def memory(request: pytest.FixtureRequest, stub: Stub) -> Iterator[Side]:
    """Yield clients of one kind, once of each kind, on quotas in memory."""
    if request.param == "blocking":
        blocking = Side(SimpleNamespace(quotas=MemoryQuotas()), USER, stub)
        yield blocking
        blocking.close()
        return
    loop = asyncio.new_event_loop()
    awaited = AsyncSide(SimpleNamespace(quotas=AsyncMemoryQuotas()), USER, stub, loop)
    yield awaited
    awaited.close()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture
def service(dsn: str, user: User) -> Iterator[Service]:
    loop = asyncio.new_event_loop()
    client = AsyncAtlas.open(dsn)
    loop.run_until_complete(client.connect())
    yield Service(client, user, loop)
    loop.run_until_complete(client.close())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()

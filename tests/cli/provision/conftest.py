"""Servers that only these tests use, and `atlasctl db init` on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import PROGRAMS, PrivateServer, private_server


@pytest.fixture(scope="session", params=PROGRAMS)
def own_server(request: pytest.FixtureRequest) -> Iterator[PrivateServer]:
    # These tests make and drop many databases. Only a crash of the machine could lose data without fsync.
    with private_server(request.param, "fsync=off") as server:
        yield server


@pytest.fixture
def server(own_server: PrivateServer) -> Iterator[PrivateServer]:
    """Yield a server without databases and roles of a test; drop them at the end."""
    yield own_server
    own_server.empty()


@pytest.fixture
def init(cli: Callable[..., Any], server: PrivateServer) -> Callable[..., Any]:
    def run(*arguments: str, database: str = "atlas", user: str = "postgres", password: str | None = None) -> Any:
        return cli("db", "init", "--dsn", server.url(database, user=user, password=password), *arguments)

    return run

"""A healthy database on a server that only these tests use, and the doctor for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import PASSWORD, PROGRAMS, PrivateServer, private_server

from atlas_sdk.provision import Address, set_up


@pytest.fixture(scope="module", params=PROGRAMS[-1:])
def own_server(request: pytest.FixtureRequest) -> Iterator[PrivateServer]:
    """Run a server with a template of a healthy database and an application's login: Debian's server, if installed."""
    with private_server(request.param) as server:
        set_up(Address(dsn=server.url("healthy")), app_user="shop", app_password=PASSWORD)
        yield server


@pytest.fixture
def server(own_server: PrivateServer) -> Iterator[PrivateServer]:
    """Yield a server with a healthy database called "atlas"."""
    own_server.ask("CREATE DATABASE atlas TEMPLATE healthy OWNER atlas_owner")
    # A copy of a database has neither the grants on the database itself nor its settings.
    own_server.ask("REVOKE CREATE, TEMPORARY ON DATABASE atlas FROM PUBLIC")
    own_server.ask("ALTER DATABASE atlas SET search_path = public, pg_temp")
    yield own_server
    own_server.ask("DROP DATABASE atlas WITH (FORCE)")
    # The next test uses the same server, and so the same roles.
    for command in (
        "ALTER ROLE atlas_app NOSUPERUSER NOBYPASSRLS",
        "REVOKE atlas_owner, pg_read_all_data FROM atlas_app",
        "GRANT atlas_app TO atlas_owner",
        "DROP ROLE IF EXISTS guest, helper",
    ):
        own_server.ask(command)


@pytest.fixture
def doctor(cli: Callable[..., Any], server: PrivateServer) -> Callable[..., Any]:
    def run(*arguments: str, user: str = "postgres", password: str | None = None, database: str = "atlas") -> Any:
        return cli("db", "doctor", "--dsn", server.url(database, user=user, password=password), *arguments)

    return run

"""Fixtures with one database for the tests of a module, its clients, and its SQL API of quotas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import cache

import pytest
from client_adapter import KINDS
from databases import OfServer
from guard_adapter import QuotaClient
from psycopg.pq import TransactionStatus
from quota_sql import QuotaSql


@pytest.fixture(scope="module")
def _shared(databases: OfServer) -> Iterator[Callable[[str], str]]:
    with ExitStack() as stack:
        yield cache(lambda server: stack.enter_context(databases(server).lent()))


@pytest.fixture
def dsn(server: str, _shared: Callable[[str], str]) -> str:
    """Return the URL of a migrated database of this module. Every test has a user of its own."""
    return _shared(server)


@pytest.fixture(scope="module")
def _quota_sql(_shared: Callable[[str], str]) -> Iterator[Callable[[str], QuotaSql]]:
    with ExitStack() as stack:
        yield cache(lambda server: stack.enter_context(QuotaSql(_shared(server))))


@pytest.fixture
def quota_sql(server: str, _quota_sql: Callable[[str], QuotaSql]) -> Iterator[QuotaSql]:
    """Yield the SQL API on a connection of this module, because a new one compiles the functions again."""
    opened = _quota_sql(server)
    yield opened
    assert opened.connection.info.transaction_status == TransactionStatus.IDLE
    opened.connection.execute("RESET ALL")


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, dsn: str) -> Iterator[QuotaClient]:
    """Yield a client on the database of this module, once of each kind."""
    with closing(QuotaClient(request.param, dsn, warm=True)) as opened:
        yield opened


@pytest.fixture
def blocking_client(dsn: str) -> Iterator[QuotaClient]:
    """Yield a blocking client on the database of this module."""
    with closing(QuotaClient("blocking", dsn, warm=True)) as opened:
        yield opened


@pytest.fixture
def asyncio_client(dsn: str) -> Iterator[QuotaClient]:
    """Yield an asyncio client on the database of this module."""
    with closing(QuotaClient("asyncio", dsn, warm=True)) as opened:
        yield opened

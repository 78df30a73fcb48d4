"""One database for the tests of a module, and a door to its quotas."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from doors import Door


@pytest.fixture(scope="module")
def _shared() -> dict[str, str]:
    return {}


@pytest.fixture
def dsn(server: str, _shared: dict[str, str], _template: Any) -> str:
    """A migrated database of this module: every test has a user of its own."""
    if server not in _shared:
        url = _template(server)
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE atlas_template")
        head, _, tail = url.partition("?")
        _shared[server] = f"{head.rsplit('/', 1)[0]}/{name}?{tail}"
    return _shared[server]


@pytest.fixture
def door(dsn: str) -> Iterator[Door]:
    opened = Door(dsn)
    yield opened
    opened.connection.close()

"""One database for the tests of a module, and a door to its quotas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest
from databases import OfServer
from doors import Door


@pytest.fixture(scope="module")
def _shared(databases: OfServer) -> Iterator[Callable[[str], str]]:
    with ExitStack() as stack:
        yield cache(lambda server: stack.enter_context(databases(server).made()))


@pytest.fixture
def dsn(server: str, _shared: Callable[[str], str]) -> str:
    """A migrated database of this module: every test has a user of its own."""
    return _shared(server)


@pytest.fixture
def door(dsn: str) -> Iterator[Door]:
    opened = Door(dsn)
    yield opened
    opened.connection.close()

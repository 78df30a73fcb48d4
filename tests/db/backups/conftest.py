"""Fixtures with databases to dump and databases to load into."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest
from databases import OfServer, name_of
from filling import fill


@pytest.fixture(scope="module")
def filled_on(databases: OfServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Yield a function that makes a database with rows in every table, once for each server, and returns its name."""
    with ExitStack() as stack:

        @cache
        def of(server: str) -> str:
            url = stack.enter_context(databases(server).made())
            fill(url, tmp_path_factory.mktemp("projects"))
            return name_of(url)

        yield of


@pytest.fixture
def filled(server: str, databases: OfServer, filled_on: Callable[[str], str]) -> Iterator[str]:
    """Yield the URL of a database with rows in every table."""
    with databases(server).made(template=filled_on(server)) as url:
        yield url


@pytest.fixture
def second_dsn(empty_dsn: str) -> str:
    """Return the URL of another database of the same server, which is empty."""
    return empty_dsn

"""Daemons and projects for the tests of the watcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemons import Daemon
from databases import OfServer

from atlas_sdk import Atlas, Project


@pytest.fixture
def daemon(tmp_path: Path, dsn: str) -> Iterator[Daemon]:
    """A daemon that is not started yet, on a database of its own."""
    found = Daemon(tmp_path / "home", dsn)
    yield found
    found.end()


@pytest.fixture(scope="module")
def shared_dsn(databases: OfServer) -> Iterator[str]:
    """One database for the tests of a module."""
    with databases("embedded").lent() as url:
        yield url


@pytest.fixture
def new_project(atlas: Atlas, tmp_path: Path) -> Callable[..., Project]:
    """Registers folders."""
    user = atlas.users.create("ada@example.com")

    def register(name: str = "app") -> Project:
        (tmp_path / name).mkdir(exist_ok=True)
        return atlas.projects.create(user, path=tmp_path / name)

    return register

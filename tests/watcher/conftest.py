"""Daemons and projects for the tests of the watcher."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from daemons import Daemon
from psycopg.conninfo import make_conninfo

from atlas_sdk import Atlas, Project


@pytest.fixture
def daemon(tmp_path: Path, dsn: str) -> Iterator[Daemon]:
    """A daemon that is not started yet, on a database of its own."""
    found = Daemon(tmp_path / "home", dsn)
    yield found
    found.end()


@pytest.fixture(scope="module")
def shared_dsn(_template: Any) -> Iterator[str]:
    """One database for the tests of a module."""
    url = _template("embedded")
    name = f"watch_{uuid.uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE atlas_template")
        yield make_conninfo(url, dbname=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def new_project(atlas: Atlas, tmp_path: Path) -> Callable[..., Project]:
    """Registers folders."""
    user = atlas.users.create("ada@example.com")

    def register(name: str = "app") -> Project:
        (tmp_path / name).mkdir(exist_ok=True)
        return atlas.projects.create(user, path=tmp_path / name)

    return register

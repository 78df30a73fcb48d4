"""Daemons, workers and projects for the tests of the watcher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import Daemon, NewProject
from databases import OfServer
from fakes import FakeSink
from rig import Rig

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
def new_project(atlas: Atlas, tmp_path: Path) -> NewProject:
    """Registers folders."""
    user = atlas.users.create("ada@example.com")

    def register(name: str = "app") -> Project:
        (tmp_path / name).mkdir(exist_ok=True)
        return atlas.projects.create(user, path=tmp_path / name)

    return register


@pytest.fixture
def sink() -> FakeSink:
    """A receiver of a backend's events."""
    return FakeSink()


@pytest.fixture
def rig() -> Rig:
    """A worker without projects."""
    return Rig()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of `app`."""
    root = tmp_path / "app"
    root.mkdir()
    return root


@pytest.fixture
def app(rig: Rig, root: Path) -> Project:
    """A project with one stored file."""
    (root / "CLAUDE.md").write_text("one")
    project = rig.atlas.add(root)
    rig.settle()
    assert rig.atlas.contents(project, "CLAUDE.md") == [b"one"]
    assert rig.worker.ready
    return project

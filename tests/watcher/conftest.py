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
    """Yield a daemon with a database of its own. The test starts it."""
    found = Daemon(tmp_path / "home", dsn)
    yield found
    found.end()


@pytest.fixture(scope="module")
def shared_dsn(databases: OfServer) -> Iterator[str]:
    """Yield the URL of a database that the tests of a module share."""
    with databases("embedded").lent() as url:
        yield url


@pytest.fixture
def new_project(atlas: Atlas, tmp_path: Path) -> NewProject:
    """Return a function that makes a folder and registers it as a project."""
    user = atlas.users.create("ada@example.com")

    def register(name: str = "app") -> Project:
        (tmp_path / name).mkdir(exist_ok=True)
        return atlas.projects.create(user, path=tmp_path / name)

    return register


@pytest.fixture
def sink() -> FakeSink:
    """Return a receiver of a backend's events."""
    return FakeSink()


@pytest.fixture
def rig() -> Rig:
    """Return a worker without projects."""
    return Rig()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder of the project `app`."""
    root = tmp_path / "app"
    root.mkdir()
    return root


@pytest.fixture
def app(rig: Rig, root: Path) -> Project:
    """Return a project with one stored file."""
    (root / "CLAUDE.md").write_text("one")
    project = rig.atlas.add(root)
    rig.settle()
    assert rig.atlas.contents(project, "CLAUDE.md") == [b"one"]
    assert rig.worker.ready
    return project

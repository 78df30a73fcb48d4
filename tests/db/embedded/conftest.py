"""Fixtures with homes whose servers end with the test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from homes import Homes
from made_once import server_folder
from quick_clusters import copy_new_clusters

from atlas_sdk._embedded import EmbeddedServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """Yield a server that all tests of the module share. None of them stops it."""
    homes = Homes(tmp_path_factory.mktemp("shared"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ATLAS_EMBEDDED_LINGER_S", "0.1")
        yield homes.use(homes.started())
        homes.close()


@pytest.fixture
def homes(machine_in_memory: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Homes]:
    monkeypatch.setenv("ATLAS_EMBEDDED_LINGER_S", "0.1")
    made = Homes(tmp_path)
    yield made
    made.close()


@pytest.fixture
def open_homes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Homes]:
    """Yield homes in a folder that every account can enter. Root's server keeps its data in them too."""
    monkeypatch.setenv("ATLAS_EMBEDDED_LINGER_S", "0.1")
    folder = server_folder("atlas-test-")
    made = Homes(folder.resolve())
    yield made
    made.close()
    shutil.rmtree(folder)


@pytest.fixture
def quick_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let new data directories of this process be copies."""
    copy_new_clusters(monkeypatch.setattr)

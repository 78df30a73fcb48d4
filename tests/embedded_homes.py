"""Homes of embedded servers for tests that are not about the first start: copies of the data of one first start."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from made_once import copy_content, made_once, server_folder
from patience import PATIENCE_S

from atlas_sdk import Atlas
from atlas_sdk._embedded import EmbeddedServer, identity, locks, places
from atlas_sdk._embedded.account import find_account
from atlas_sdk._embedded.cluster import Cluster
from atlas_sdk._embedded.places import Site, find_binaries
from atlas_sdk._embedded.server import _dsn


def started_home(home: Path) -> Path:
    """Give a home the data of a stopped server with a migrated database; return the home."""
    site = Site.prepare(home)
    data = site.place_data()
    data.mkdir(mode=0o700, exist_ok=True)
    copy_content(made_once("home", _start_and_stop) / "data", data)
    return home


def _start_and_stop(folder: Path) -> None:
    account = find_account()
    home = folder / "home"
    home.mkdir(mode=0o755)
    site = Site.prepare(home)
    cluster = Cluster(site=site, data_dir=site.place_data(), bin_dir=find_binaries(account))
    Atlas.open(_dsn(cluster.serve(), account.name), migrate=True).close()
    cluster.stop()
    # Without this record the data belongs to the home that first starts it.
    (site.data_dir() / identity._RECORD).unlink()
    site.data_dir().rename(folder / "data")


@contextmanager
def embedded_server() -> Iterator[EmbeddedServer]:
    """Run a server with a migrated database that no other test uses; remove it at the end."""
    home = started_home(server_folder("atlas-test-"))
    server = EmbeddedServer.acquire(home)
    yield server
    remove_embedded(server)


def remove_embedded(server: EmbeddedServer) -> None:
    """Release a server, wait until its supervisor has stopped it, and remove its home."""
    server.release()
    # The server writes its last checkpoint. On a busy disk, after thousands of databases, this takes long.
    for _ in locks.polling(PATIENCE_S):
        if not (server.data_dir / "postmaster.pid").exists():
            break
    else:
        pytest.fail("the embedded server did not stop after its last user")
    if server.data_dir.is_relative_to(places.MACHINE_DIR):
        shutil.rmtree(server.data_dir)
    shutil.rmtree(server.home)

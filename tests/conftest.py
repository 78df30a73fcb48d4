"""Servers for the tests: the embedded one, and the system's PostgreSQL where it is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import argon2
import psycopg
import pytest
from client_adapter import KINDS
from databases import Databases, OfServer, close_connections
from embedded_homes import embedded_server
from made_once import copy_content, made_once, server_folder, share_folder
from recycling import RECYCLER
from servers import Guard
from warm_clients import warm_client

from atlas_sdk import Atlas
from atlas_sdk._embedded import EmbeddedServer, places
from atlas_sdk.ops import passwords

# A process that a shell script starts in the background (`make test &`) ignores Ctrl-C, and so do its child processes.
# The tests interrupt some of their child processes.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Hundreds of tests start Python programs. Without bytecode files, each program and each process of the tests compiles
# the package again. That takes 0.5 s of CPU time, as long as the rest of the program.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# After its last test a server stops soon, instead of waiting for another user.
os.environ.setdefault("ATLAS_EMBEDDED_LINGER_S", "0.2")

# The processes of pytest-xdist inherit the folder.
share_folder()

_SYSTEM_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
#: "embedded", and "system" where Debian's server is installed. The header of every run names the servers.
SERVERS = ["embedded"] + (["system"] if _SYSTEM_BINARIES else [])


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Put the folders of the tests into memory; with `--basetemp` they stay.

    On ext4 each new file takes up to 1 ms of CPU time while thousands of others are being deleted.
    """
    if config.option.basetemp is None and not hasattr(config, "workerinput"):
        config.option.basetemp = str(share_folder() / "t")


def pytest_report_header() -> str:
    if _SYSTEM_BINARIES:
        return f"servers: embedded PostgreSQL, and the system's {_SYSTEM_BINARIES[0].parent.name}"
    return "servers: embedded PostgreSQL only; install Debian's postgresql to run the schema on a second version"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests with the mark `every_server` once on each server."""
    if metafunc.definition.get_closest_marker("every_server") is not None:
        metafunc.parametrize("server", SERVERS, indirect=True)


@pytest.fixture(scope="session")
def atlas_home() -> Iterator[Path]:
    """Yield a home whose embedded server runs for the whole session."""
    with embedded_server() as server:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            # A crash of the machine may destroy the data; a crash of the server's processes may not. With fsync, every
            # test waits for the disk when it makes and drops a database, which took longer than the tests.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        RECYCLER.allow(server.dsn)
        yield server.home
        close_connections()


def _identity(account: pwd.struct_passwd | None) -> dict[str, Any]:
    return {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _run(arguments: list[str], account: pwd.struct_passwd | None) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, cwd="/", **_identity(account))
    assert done.returncode == 0, f"{arguments[0]}: {done.stdout}{done.stderr}"


@pytest.fixture(scope="session")
def _system_server() -> Iterator[str]:
    """Run Debian's server on its own data and its own socket; yield its URL."""
    binaries = _SYSTEM_BINARIES[0]
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    folder = server_folder("atlas-pg-")
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)
    data = folder / "data"

    def initdb(made: Path) -> None:
        if account is not None:
            os.chown(made, account.pw_uid, account.pw_gid)
        login = ["-U", "atlas", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        _run([str(binaries / "initdb"), "-D", str(made / "data"), *login], account)

    copy_content(made_once("system", initdb), folder)
    # Anyone who can enter the folder could connect as a superuser.
    folder.chmod(0o700)
    options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off -c max_wal_size=128MB"
    start = [str(binaries / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start"]
    _run(start, account)
    stop = [str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop"]
    guard = Guard(stop, _identity(account))
    yield f"postgresql:///postgres?host={quote(str(folder), safe='')}&user=atlas"
    close_connections()
    guard.dismiss()
    _run(stop, account)
    shutil.rmtree(folder)


@pytest.fixture
def machine_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let root's servers, also those of forked programs, keep their data in memory in place of /var/lib/atlasengine."""
    folder = share_folder() / "machine"
    folder.mkdir(mode=0o755, exist_ok=True)
    monkeypatch.setattr(places, "MACHINE_DIR", folder)
    monkeypatch.setenv("TESTS_MACHINE_DIR", str(folder))


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest) -> OfServer:
    """Return a function that returns the migrated databases of a server, by the server's name."""
    known: dict[str, Databases] = {}

    def databases_of(server: str) -> Databases:
        if server not in known:
            if server == "embedded":
                url = EmbeddedServer.acquire(request.getfixturevalue("atlas_home")).dsn
            else:
                url = request.getfixturevalue("_system_server")
            known[server] = Databases(url)
        return known[server]

    return databases_of


@pytest.fixture
def server(request: pytest.FixtureRequest) -> str:
    """Return the name of the server on which the test's database is made."""
    return getattr(request, "param", "embedded")


@pytest.fixture
def dsn(server: str, databases: OfServer) -> Iterator[str]:
    """Yield the URL of a migrated database without rows."""
    with databases(server).lent() as url:
        yield url


@pytest.fixture
def empty_dsn(server: str, databases: OfServer) -> Iterator[str]:
    """Yield the URL of a fresh database without a schema."""
    with databases(server).made(template="template1") as url:
        yield url


@pytest.fixture
def migrated(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield a superuser's connection to a fresh, migrated database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def atlas(dsn: str) -> Iterator[Atlas]:
    """Yield a blocking client on a fresh database."""
    with warm_client("blocking", dsn) as client:
        yield client


@pytest.fixture
def embedded(atlas_home: Path) -> Iterator[Atlas]:
    """Yield a blocking client on the database of the session's embedded server, which tests share."""
    with Atlas.open(home=atlas_home) as client:
        yield client


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, dsn: str) -> Iterator[Any]:
    """Yield a client on a fresh database, once of each kind. Tests call both kinds without `await`."""
    with warm_client(request.param, dsn) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a project's folder with two memory files."""
    project = tmp_path / "app"
    project.mkdir()
    (project / "CLAUDE.md").write_bytes(b"# Rules\n\nBe kind.\n")
    (project / "notes.md").write_bytes(b"- first\n")
    return project


@pytest.fixture
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> argon2.PasswordHasher:
    """Make new hashes a hundred times cheaper; return a still cheaper hasher, to make hashes of another program."""
    monkeypatch.setattr(passwords, "_TIME_COST", 1)
    monkeypatch.setattr(passwords, "_MEMORY_KIB", 512)
    monkeypatch.setattr(passwords, "_LANES", 1)
    return argon2.PasswordHasher(time_cost=1, memory_cost=256, parallelism=1)

"""Temporary databases, for tests: copies of a migrated template on a server of this process alone.

A process has one server for them, in a home that is marked as temporary, so that a second database costs a
CREATE DATABASE and no start. The server's supervisor removes that home when the process has ended, however it ended.
"""

import atexit
import itertools
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Final

from atlas_sdk._embedded.locks import exclusive, polling, try_exclusive
from atlas_sdk._embedded.places import machine_dir
from atlas_sdk._embedded.server import EmbeddedServer
from atlas_sdk._forks import reset_in_children
from atlas_sdk.errors import EmbeddedServerFailed
from atlas_sdk.home import private_folder

__all__ = ["temporary_database"]

_log = logging.getLogger(__name__)

_TEMPLATE: Final = "temporary_template"
#: How long the end of a process waits for its server to stop and its files to go: some tenths of a second, when quiet.
_REMOVED_S: Final = 30.0

_CREATE = 'CREATE DATABASE :"name" TEMPLATE :"template"'
_DROP = 'DROP DATABASE :"name" WITH (FORCE)'


@contextmanager
def temporary_database(migrate: Callable[[str], None]) -> Iterator[str]:
    """Make a migrated database without rows, yield its address, and drop it, whoever still uses it.

    `migrate` applies the migrations to the database of an address; it is called once a process. Any number of threads
    may be in here at once. Raises `EmbeddedServerFailed`.
    """
    server = _process.server(migrate)
    name = f"temporary_{next(_process.numbers)}"
    _psql(server, _CREATE, name=name, template=_TEMPLATE)
    try:
        yield server.in_database(name)
    finally:
        try:
            _psql(server, _DROP, name=name)
        except EmbeddedServerFailed as problem:
            # An error of the caller's must not be hidden by this one; the database goes with the server.
            _log.warning("A temporary database stays until the process ends: %s", problem)


class _Process:
    """The server of this process, started at the first call."""

    def __init__(self) -> None:
        self.after_fork()
        reset_in_children(self)
        atexit.register(self.close)

    def after_fork(self) -> None:
        """Forget the parent's server: the child starts its own."""
        self._lock = Lock()
        self._server: EmbeddedServer | None = None
        #: Of databases; two with one name would meet.
        self.numbers = itertools.count(1)

    def server(self, migrate: Callable[[str], None]) -> EmbeddedServer:
        """Return the running server of this process, with its template."""
        with self._lock:
            if self._server is not None:
                self._server.ensure_running()
                return self._server
            server = _join_new_home()
            try:
                server.ensure_running()
                _psql(server, _CREATE, name=_TEMPLATE, template="template1")
                migrate(server.in_database(_TEMPLATE))
            except BaseException:
                server.release()
                raise
            self._server = server
            return server

    def close(self) -> None:
        """Leave the server, and wait until its supervisor has stopped it and removed the home."""
        with self._lock:
            server, self._server = self._server, None
        if server is None:
            return
        server.release()
        if not any(not server.home.exists() for _ in polling(_REMOVED_S)):
            _log.warning("The temporary server in %s is still stopping; it removes its files then", server.home)


def _join_new_home() -> EmbeddedServer:
    """Make a temporary home, and have the homes of processes that are dead removed."""
    base = _base()
    # Without the lock another process could take the new home, which nobody uses yet, for a dead one's.
    with exclusive(base / "lock"):
        for home in base.iterdir():
            if home.is_dir():
                _remove_if_unused(home)
        home = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=base))
        if os.geteuid() == 0:
            home.chmod(0o711)
        return EmbeddedServer.join(home, temporary=True)


def _base() -> Path:
    """Return the folder of this OS user's temporary homes, which survives a reboot where the data does.

    For root it is one that the account of the server can enter: the data then lies in the home.
    """
    if os.geteuid() != 0:
        return private_folder(Path(tempfile.gettempdir(), f"atlasengine-{os.geteuid()}-temporary"))
    base = machine_dir() / "temporary"
    base.mkdir(exist_ok=True)
    base.chmod(0o711)
    return base


def _remove_if_unused(home: Path) -> None:
    """Start a supervisor for a home whose process is dead; it stops the server, if one is left, and removes it all."""
    run_dir = home / "postgres.run"
    if not (run_dir / "temporary").exists():
        # Its process was killed before anything was in it.
        shutil.rmtree(home, ignore_errors=True)
        return
    users = try_exclusive(run_dir / "users.lock")
    if users is None:
        return
    os.close(users)
    _log.info("Removing %s, which a killed process has left", home)
    left = EmbeddedServer.join(home)
    left.ensure_supervisor()
    left.release()


def _psql(server: EmbeddedServer, script: str, **names: str) -> None:
    variables = (word for name, value in names.items() for word in ("-v", f"{name}={value}"))
    done = subprocess.run(
        (server.bin_dir / "psql", "-Xq", "-v", "ON_ERROR_STOP=1", *variables, "-d", server.in_database("postgres")),
        input=script,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env={"LC_ALL": "C", "PGCLIENTENCODING": "UTF8"},
        check=False,
    )
    if done.returncode != 0:
        raise EmbeddedServerFailed(f"A temporary database cannot be made or dropped: {done.stderr.strip()}")


_process = _Process()

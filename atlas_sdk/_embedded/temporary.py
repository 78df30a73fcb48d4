"""Temporary databases for tests: copies of a migrated template, on a server that only this process uses.

A process has one server for all its temporary databases, so only the first one waits for a start. The server's home is
marked as temporary, and its supervisor removes it after the end of the process, even if the process is killed.
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
#: Seconds that a process waits at its end until its server is stopped and removed; that takes some tenths of a second.
_REMOVED_S: Final = 30.0

_CREATE = 'CREATE DATABASE :"name" TEMPLATE :"template"'
_DROP = 'DROP DATABASE :"name" WITH (FORCE)'


@contextmanager
def temporary_database(migrate: Callable[[str], None]) -> Iterator[str]:
    """Create a migrated database without rows, yield its address, and drop it, even if it is in use.

    `migrate` applies the migrations to the database at an address. A process calls `migrate` once, for its template.
    Any number of threads may create databases at once. Raises `EmbeddedServerFailed`.
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
            # Do not hide an error of the caller. The database is removed with the server.
            _log.warning("A temporary database stays until the process ends: %s", problem)


class _ProcessServer:
    """The server of this process, which the first call of `server` starts."""

    def __init__(self) -> None:
        self.after_fork()
        reset_in_children(self)
        atexit.register(self.close)

    def after_fork(self) -> None:
        """Forget the parent's server: the child starts its own."""
        self._lock = Lock()
        self._server: EmbeddedServer | None = None
        #: Numbers for the names of databases.
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
        """Release the server, and wait until its supervisor has stopped it and removed the home."""
        with self._lock:
            server, self._server = self._server, None
        if server is None:
            return
        server.release()
        if not any(not server.home.exists() for _ in polling(_REMOVED_S)):
            _log.warning("The temporary server in %s is still stopping; it removes its files then", server.home)


def _join_new_home() -> EmbeddedServer:
    """Create a temporary home and join its server; also start to remove the homes of dead processes."""
    base = _base()
    # The lock keeps other processes from removing the new home before it is in use.
    with exclusive(base / "lock"):
        for home in base.iterdir():
            if home.is_dir():
                _remove_if_unused(home)
        home = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=base))
        if os.geteuid() == 0:
            home.chmod(0o711)
        return EmbeddedServer.join(home, temporary=True)


def _base() -> Path:
    """Return the folder of this OS user's temporary homes.

    For root this is a folder that the server's account can enter, so that the data can be in the home itself.
    """
    if os.geteuid() != 0:
        return private_folder(Path(tempfile.gettempdir(), f"atlasengine-{os.geteuid()}-temporary"))
    base = machine_dir() / "temporary"
    base.mkdir(exist_ok=True)
    base.chmod(0o711)
    return base


def _remove_if_unused(home: Path) -> None:
    """Start a supervisor for the home of a dead process. It stops the server, if one runs, and removes the home."""
    run_dir = home / "postgres.run"
    if not (run_dir / "temporary").exists():
        # The process was killed before it put anything into the home.
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
        raise EmbeddedServerFailed(f"A temporary database cannot be created or dropped: {done.stderr.strip()}")


_process = _ProcessServer()

"""Connections to the journal's file, and the errors of SQLite in sentences."""

import errno
import os
import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any
from weakref import WeakSet

from atlas_sdk._sql import statements
from atlas_sdk.errors import JournalProblem
from atlas_sdk.journal import place

__all__ = ["Connection"]

sql = statements("records", "journal")

#: The longest wait for another process that writes. A write takes milliseconds; only a suspended process takes longer.
_WAIT_S = 10.0
#: Pages of the write-ahead log after which a commit copies it into the file, which takes some 20 ms. Records are
#: deleted soon, so `delivered` copies early, in the background; an append does so only if nobody delivers.
_EARLY_PAGES, _LATE_PAGES = 1_000, 8_000
_LOG_BYTES = 16 * 2**20
#: All connections of this process.
_connections: "WeakSet[Connection]" = WeakSet()
#: Held during a fork, with the connections whose locks the fork holds.
_forking = RLock()
_locked: "list[Connection]" = []
#: Connections that a parent opened and did not close at its fork. SQLite forbids to use or close them in the child.
_of_parents: list[sqlite3.Connection] = []


class Connection:
    """One connection to the journal, for one thread at a time; opened at its first use.

    A durable connection waits for the disk at each commit, and the other kind never does.
    """

    def __init__(self, home: Path, *, durable: bool, makes: bool) -> None:
        self._home = home
        self._durable = durable
        self._makes = makes
        self.path = home / place.FOLDER / place.NAME
        self.lock = RLock()
        self._sqlite: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        _connections.add(self)

    def start_anew(self) -> None:
        """Start without a connection and without a lock in a forked child: both belong to the parent."""
        if self._sqlite is not None:
            _of_parents.append(self._sqlite)
        self.lock, self._sqlite = RLock(), None

    @property
    def is_open(self) -> bool:
        """True if the connection is open, and its file is still the journal."""
        return self._sqlite is not None and place.identity(self.path) == self._identity

    def opened(self) -> sqlite3.Connection | None:
        """Return SQLite's connection; open it first, and again if another file is in the place of the journal.

        Returns None if there is no journal and this connection does not make one. Raises JournalProblem.
        """
        if self._sqlite is not None:
            if place.identity(self.path) == self._identity:
                return self._sqlite
            self.close()
        found = place.make(self._home) if self._makes else place.find(self._home)
        if found is None:
            return None
        self.path = found
        with place.opening:
            try:
                self._identity = place.checked(found)
            except FileNotFoundError as exc:
                raise JournalProblem(f"the journal {found} was removed a moment ago", path=str(found)) from exc
            try:
                self._sqlite = self._connect(found)
            except BaseException:
                place.closed(self._identity)
                raise
        return self._sqlite

    def _connect(self, path: Path) -> sqlite3.Connection:
        with self.explained():
            connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
            try:
                connection.row_factory = sqlite3.Row
                connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
                connection.execute(f"PRAGMA wal_autocheckpoint = {_LATE_PAGES if self._durable else _EARLY_PAGES}")
                connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
            except BaseException:
                connection.close()
                raise
            return connection

    def close(self) -> None:
        """Close the connection. The next use opens it again."""
        with self.lock:
            connection, self._sqlite = self._sqlite, None
            if connection is not None and self._identity is not None:
                with place.opening, self.explained():
                    connection.close()
                    place.closed(self._identity)

    def rows(self, name: str, **parameters: object) -> list[Any]:
        """Return the rows of a statement; none if there is no journal."""
        # Without `explained`, which takes 2 µs: writers call this before each write.
        try:
            with self.lock:
                connection = self.opened()
                return [] if connection is None else connection.execute(sql[name].text, parameters).fetchall()
        except sqlite3.Error as exc:
            raise self._problem(exc) from exc

    def each(self, name: str, **parameters: object) -> Generator[Any, None, None]:
        """Yield the rows of a statement one by one. Callers must hold `lock` until the end."""
        with self.explained():
            connection = self.opened()
            if connection is not None:
                yield from connection.execute(sql[name].text, parameters)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection | None]:
        """Yield SQLite's connection in a transaction that may write; None if there is no journal."""
        with self.lock, self.explained():
            connection = self.opened()
            if connection is None:
                yield None
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn an error of SQLite into a JournalProblem that says what to do."""
        try:
            yield
        except sqlite3.Error as exc:
            raise self._problem(exc) from exc

    def _problem(self, error: sqlite3.Error) -> JournalProblem:
        return JournalProblem(f"the journal {self.path} {_sentence(error)}", path=str(self.path))


def _sentence(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", None) or 0
    kind = code & 0xFF
    if kind == sqlite3.SQLITE_FULL or (kind == sqlite3.SQLITE_IOERR and code in _WRITES):
        return "cannot be written: the disk is full or broken; free some space, then try again"
    if kind == sqlite3.SQLITE_BUSY:
        return f"is in use by another process for more than {_WAIT_S:g} s; continue or end that process, then try again"
    if kind in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return "is damaged; move its folder away, then try again"
    if kind in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN}:
        reason = os.strerror(errno.EACCES).lower()
        return f"cannot be opened or written ({reason}, or a full disk): see that it belongs to this OS user"
    return f"cannot be used: {error}"


_WRITES = {
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMMAP,
}


def execute(connection: sqlite3.Connection, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Run a statement once for each row."""
    connection.executemany(sql[name].text, rows)


def _before_fork() -> None:
    """Close all connections before a fork: SQLite's locks are per process, and its memory of them would be copied.

    Connections open again at their next use. `subprocess` does not call this.
    """
    _forking.acquire()
    # Always in one order, because two threads may fork at the same time.
    for one in sorted(_connections, key=id):
        one.lock.acquire()
        _locked.append(one)
        one.close()
    place.opening.acquire()


def _after_fork_in_parent() -> None:
    place.opening.release()
    while _locked:
        _locked.pop().lock.release()
    _forking.release()


def _after_fork_in_child() -> None:
    place.opening.release()
    place.forget_all()
    _locked.clear()
    for one in list(_connections):
        one.start_anew()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)

"""Connections of command lines in this process: the next command takes over those of the last one.

Each command opens a client of its own. On a new connection its first statements take 20 ms to 40 ms of CPU time,
because the server process reads the catalogues and compiles the functions. A connection that is taken over has no
settings, no locks and no transaction.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from attrs import define, field
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from atlas_sdk._drive.pool import has_news
from atlas_sdk._drive.pooled_connection import PooledConnection

#: The most connections that are kept for one address.
_KEPT_MAX = 3


@define
class Recycler:
    """Connections that command lines have left."""

    #: The socket folders of servers that end after their last test. A kept connection would let others run on.
    _servers: set[str] = field(factory=set)
    _kept: dict[str, list[PooledConnection]] = field(factory=dict)

    def allow(self, dsn: str) -> None:
        """Keep connections to the server with this address."""
        self._servers.add(_server_of(dsn))

    def backends(self, dsn: str) -> list[int]:
        """Return the ids of the server processes that are kept for a database."""
        return [kept.info.backend_pid for kept in self._kept.get(dsn, [])]

    def forget(self, dsn: str | None = None) -> None:
        """Close what is kept for a database; without a database, everything."""
        for address in [address for address in self._kept if dsn in (None, address)]:
            for kept in self._kept.pop(address):
                kept.pgconn.finish()

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the pools of this process keep connections until the end of a test."""
        connect, close = PooledConnection.connect.__func__, PooledConnection.close  # type: ignore[attr-defined]

        def recycled(cls: type[PooledConnection], /, conninfo: str = "", **options: Any) -> PooledConnection:
            known = self._kept.get(conninfo, [])
            while known:
                found = known.pop()
                if not has_news(found):
                    return found
                close(found)
            made: PooledConnection = connect(cls, conninfo, **options)
            made.address = conninfo  # type: ignore[attr-defined]
            return made

        def kept(connection: PooledConnection) -> None:
            address = getattr(connection, "address", "")
            known = self._kept.setdefault(address, [])
            if _server_of(address) in self._servers and len(known) < _KEPT_MAX and _is_reset(connection):
                connection._pool = None
                known.append(connection)
            else:
                close(connection)

        monkeypatch.setattr(PooledConnection, "connect", classmethod(recycled))
        monkeypatch.setattr(PooledConnection, "close", kept)


def _server_of(dsn: str) -> str:
    try:
        return str(conninfo_to_dict(dsn).get("host", ""))
    except psycopg.Error:
        return ""


def _is_reset(connection: PooledConnection) -> bool:
    """Take all settings and locks from a connection; return False if it cannot be used again."""
    if connection.closed or connection.pgconn.transaction_status != TransactionStatus.IDLE:
        return False
    try:
        connection.execute("SELECT pg_advisory_unlock_all()", prepare=False)
        connection.execute("RESET ALL", prepare=False)
    except psycopg.Error:
        return False
    return True


#: The connections of this process.
RECYCLER = Recycler()

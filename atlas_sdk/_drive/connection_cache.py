"""A cache between a driver and its pool: it keeps a connection for a moment, because the next statement comes soon.

Getting a connection from a pool and giving it back costs as much as a small statement. The pool counts cached
connections as used and does not close them. So only a busy client has a cache: each connection goes back to the pool
within two seconds, and at once when another caller waits for one.
"""

import asyncio
import logging
import select
import threading
import time
import weakref
from typing import Any, Generic, Protocol, TypeVar

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from atlas_sdk._drive.pooled_connection import AsyncPooledConnection, PooledConnection

__all__ = ["AsyncConnectionCache", "ConnectionCache", "closed_by_server"]

logger = logging.getLogger(__name__)

#: A connection that was out of the pool for longer goes back to the pool, which watches its age.
_KEEP_S = 1.0
#: A client that gives connections back less often than this is not busy: it needs no cache and no sweeper thread.
_BUSY_S = 0.05


def closed_by_server(connection: Connection[Any] | AsyncConnection[Any]) -> bool:
    """Return whether an idle connection has something to read, as after the server closed it. No round trip."""
    poller = select.poll()
    poller.register(connection.pgconn.socket, select.POLLIN)
    return bool(poller.poll(0))


class _Timed(Protocol):
    checked_out_at: float


C = TypeVar("C", bound=_Timed)


class _Idle(Generic[C]):
    """The idle connections, the last used first, and the number of callers that wait for the pool."""

    def __init__(self) -> None:
        # Reentrant: the garbage collector may run a finalizer here that needs a connection itself.
        self._lock = threading.RLock()
        self._idle: list[C] = []
        self._asking = 0
        self._kept_at = 0.0
        self._closed = False
        self._has_sweeper = False
        #: The number of requests answered without the pool.
        self.reused = 0

    def take(self) -> C | None:
        """Return an idle connection. None: ask the pool, and call `arrived` whatever it answers."""
        with self._lock:
            if not self._idle:
                self._asking += 1
                return None
            self.reused += 1
            return self._idle.pop()

    def arrived(self, connection: C | None) -> None:
        """Note that the pool gave this connection, or none."""
        if connection is not None:
            connection.checked_out_at = time.monotonic()
        with self._lock:
            self._asking -= 1

    def keep(self, connection: C) -> bool:
        """Keep a connection that came back; False: give it to the pool, where a caller may wait for it."""
        now = time.monotonic()
        with self._lock:
            busy = now - self._kept_at < _BUSY_S
            self._kept_at = now
            if not busy or self._asking or self._closed or now - connection.checked_out_at > _KEEP_S:
                return False
            self._idle.append(connection)
            return True

    def needs_sweeper(self) -> bool:
        """Return True to exactly one caller, which must start the sweeper."""
        if self._has_sweeper:
            return False
        with self._lock:
            start = bool(self._idle) and not self._has_sweeper
            self._has_sweeper |= start
            return start

    def expired(self) -> list[C]:
        """Remove and return the connections that left the pool too long ago; when none is left the sweeper may end."""
        until = time.monotonic() - _KEEP_S
        with self._lock:
            old = [each for each in self._idle if each.checked_out_at <= until]
            self._idle = [each for each in self._idle if each.checked_out_at > until]
            self._has_sweeper = bool(self._idle)
            return old

    def end(self) -> list[C]:
        """Remove and return all connections, and keep none from now on."""
        with self._lock:
            self._closed = True
            rest, self._idle = self._idle, []
            return rest

    def __len__(self) -> int:
        return len(self._idle)


class ConnectionCache:
    """The connection cache of a blocking client."""

    def __init__(self, pool: ConnectionPool[PooledConnection]) -> None:
        self._pool = pool
        self._idle: _Idle[PooledConnection] = _Idle()
        self._ended = threading.Event()

    @property
    def reused(self) -> int:
        """The number of requests answered without the pool, which counts the others."""
        return self._idle.reused

    def __len__(self) -> int:
        return len(self._idle)

    def get(self) -> PooledConnection:
        """Return a connection, from the cache or from the pool. Raises the pool's errors."""
        while (found := self._idle.take()) is not None:
            if self._is_alive(found):
                return found
        from_pool = None
        until = time.monotonic() + self._pool.timeout
        try:
            while from_pool is None:
                found = self._pool.getconn(until - time.monotonic())
                from_pool = found if self._is_alive(found) else None
        finally:
            self._idle.arrived(from_pool)
        return from_pool

    def _is_alive(self, connection: PooledConnection) -> bool:
        """Return whether a connection is alive; give it to the pool if not. Usually without a round trip."""
        is_alive = False
        try:
            if closed_by_server(connection):
                # Or the server sent a notice. A query shows which.
                connection.execute("")
            is_alive = True
        except psycopg.Error:
            logger.debug("the server has closed an idle connection", exc_info=True)
        finally:
            if not is_alive:
                self._pool.putconn(connection)
        return is_alive

    def put(self, connection: PooledConnection) -> None:
        """Take back a connection that `get` gave."""
        if connection.pgconn.transaction_status != TransactionStatus.IDLE or not self._idle.keep(connection):
            self._pool.putconn(connection)
        elif self._idle.needs_sweeper():
            sweeper = threading.Thread(
                target=_sweep_regularly,
                args=(weakref.ref(self), self._ended),
                name="atlas-connections",
                daemon=True,
            )
            try:
                sweeper.start()
            except RuntimeError:
                # An interpreter that shuts down starts no threads.
                self.close()

    def sweep(self) -> bool:
        """Give expired connections back to the pool; return False when none is left in the cache."""
        for each in self._idle.expired():
            self._pool.putconn(each)
        return bool(self._idle)

    def close(self) -> None:
        """Give all connections back to the pool. Idempotent."""
        self._ended.set()
        for each in self._idle.end():
            self._pool.putconn(each)


def _sweep_regularly(cache: "weakref.ref[ConnectionCache]", ended: threading.Event) -> None:
    while not ended.wait(_KEEP_S):
        # Hold no reference while waiting: a client that is dropped without a close frees its connections.
        found = cache()
        if found is None or not found.sweep():
            return
        del found


class AsyncConnectionCache:
    """The connection cache of an asyncio client; the twin of `ConnectionCache`, line by line."""

    def __init__(self, pool: AsyncConnectionPool[AsyncPooledConnection]) -> None:
        self._pool = pool
        self._idle: _Idle[AsyncPooledConnection] = _Idle()
        self._ended = asyncio.Event()
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def reused(self) -> int:
        """The number of requests answered without the pool, which counts the others."""
        return self._idle.reused

    def __len__(self) -> int:
        return len(self._idle)

    async def get(self) -> AsyncPooledConnection:
        """Return a connection, from the cache or from the pool. Raises the pool's errors."""
        while (found := self._idle.take()) is not None:
            if await self._is_alive(found):
                return found
        from_pool = None
        until = time.monotonic() + self._pool.timeout
        try:
            while from_pool is None:
                found = await self._pool.getconn(until - time.monotonic())
                from_pool = found if await self._is_alive(found) else None
        finally:
            self._idle.arrived(from_pool)
        return from_pool

    async def _is_alive(self, connection: AsyncPooledConnection) -> bool:
        """Return whether a connection is alive; give it to the pool if not. Usually without a round trip."""
        is_alive = False
        try:
            if closed_by_server(connection):
                # Or the server sent a notice. A query shows which.
                await connection.execute("")
            is_alive = True
        except psycopg.Error:
            logger.debug("the server has closed an idle connection", exc_info=True)
        finally:
            if not is_alive:
                await self._pool.putconn(connection)
        return is_alive

    async def put(self, connection: AsyncPooledConnection) -> None:
        """Take back a connection that `get` gave."""
        if connection.pgconn.transaction_status != TransactionStatus.IDLE or not self._idle.keep(connection):
            await self._pool.putconn(connection)
        elif self._idle.needs_sweeper():
            self._sweeper = asyncio.create_task(
                _sweep_regularly_async(weakref.ref(self), self._ended), name="atlas-connections"
            )

    async def sweep(self) -> bool:
        """Give expired connections back to the pool; return False when none is left in the cache."""
        for each in self._idle.expired():
            await self._pool.putconn(each)
        return bool(self._idle)

    async def close(self) -> None:
        """Give all connections back to the pool. Idempotent."""
        self._ended.set()
        for each in self._idle.end():
            await self._pool.putconn(each)


async def _sweep_regularly_async(cache: "weakref.ref[AsyncConnectionCache]", ended: asyncio.Event) -> None:
    while not ended.is_set():
        try:
            await asyncio.wait_for(ended.wait(), _KEEP_S)
        except TimeoutError:
            # Hold no reference while waiting: a client that is dropped without a close frees its connections.
            found = cache()
            if found is None or not await found.sweep():
                return
            del found

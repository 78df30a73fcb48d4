"""A cache of connections: they stay here for a moment, because the next statement usually comes soon.

To take a connection from a pool and to give it back costs as much as the statement between. The pool counts these
connections as given out and does not close them. So only a busy client keeps them here; each is back in the pool within
two seconds, and at once when somebody waits for one.
"""

import asyncio
import logging
import threading
import time
import weakref
from typing import Generic, Protocol, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from atlas_sdk._drive.connection_config import closed_by_server
from atlas_sdk._drive.statement_cache import AsyncPooledConnection, PooledConnection

__all__ = ["AsyncConnectionCache", "ConnectionCache"]

logger = logging.getLogger(__name__)

#: A connection that comes back later than this after it was drawn goes to the pool, which looks after its age.
_KEEP_S = 1.0
#: A client that gives connections back less often than this is not busy: it gets no thread that looks after them.
_BUSY_S = 0.05


class _Timed(Protocol):
    checked_out_at: float


C = TypeVar("C", bound=_Timed)


class _Idle(Generic[C]):
    """The idle ones, the last used first, and how many callers ask the pool instead."""

    def __init__(self) -> None:
        # Reentrant: what a garbage collector ends here may need a connection itself.
        self._lock = threading.RLock()
        self._idle: list[C] = []
        self._asking = 0
        self._kept_at = 0.0
        self._closed = False
        self._watched = False
        #: How many were given out without the pool.
        self.reused = 0

    def take(self) -> C | None:
        """Return one that is at hand. None: ask the pool, and say `arrived` whatever it answers."""
        with self._lock:
            if not self._idle:
                self._asking += 1
                return None
            self.reused += 1
            return self._idle.pop()

    def arrived(self, connection: C | None) -> None:
        """Note that the pool gave this one, or none."""
        if connection is not None:
            connection.checked_out_at = time.monotonic()
        with self._lock:
            self._asking -= 1

    def keep(self, connection: C) -> bool:
        """Keep one that came back; False: it is the pool's, who may have somebody who waits for it."""
        now = time.monotonic()
        with self._lock:
            busy = now - self._kept_at < _BUSY_S
            self._kept_at = now
            if not busy or self._asking or self._closed or now - connection.checked_out_at > _KEEP_S:
                return False
            self._idle.append(connection)
            return True

    def unwatched(self) -> bool:
        """Return True to exactly one caller, which must start the sweeper."""
        if self._watched:
            return False
        with self._lock:
            watch = bool(self._idle) and not self._watched
            self._watched |= watch
            return watch

    def unused(self) -> list[C]:
        """Take out those that were drawn too long ago; when none is left, who watches may go."""
        until = time.monotonic() - _KEEP_S
        with self._lock:
            old = [each for each in self._idle if each.checked_out_at <= until]
            self._idle = [each for each in self._idle if each.checked_out_at > until]
            self._watched = bool(self._idle)
            return old

    def end(self) -> list[C]:
        """Take all of them out, and keep none any more."""
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
        """The number of connections given out without the pool; the pool counts the others."""
        return self._idle.reused

    def __len__(self) -> int:
        return len(self._idle)

    def get(self) -> PooledConnection:
        """Return a connection, from here or from the pool. Raises what the pool raises."""
        while (found := self._idle.take()) is not None:
            if self._works(found):
                return found
        drawn = None
        until = time.monotonic() + self._pool.timeout
        try:
            while drawn is None:
                found = self._pool.getconn(until - time.monotonic())
                drawn = found if self._works(found) else None
        finally:
            self._idle.arrived(drawn)
        return drawn

    def _works(self, connection: PooledConnection) -> bool:
        """Tell whether a connection is alive; replace it in the pool if not. Usually without a round trip."""
        works = False
        try:
            if closed_by_server(connection):
                # Unless it has only said something unasked.
                connection.execute("")
            works = True
        except psycopg.Error:
            logger.debug("the server has closed an idle connection", exc_info=True)
        finally:
            if not works:
                self._pool.putconn(connection)
        return works

    def put(self, connection: PooledConnection) -> None:
        """Take back a connection that `get` gave."""
        if connection.pgconn.transaction_status != TransactionStatus.IDLE or not self._idle.keep(connection):
            self._pool.putconn(connection)
        elif self._idle.unwatched():
            watcher = threading.Thread(
                target=_watch, args=(weakref.ref(self), self._ended), name="atlasengine-connections", daemon=True
            )
            try:
                watcher.start()
            except RuntimeError:
                # An interpreter that ends starts no threads any more.
                self.close()

    def sweep(self) -> bool:
        """Give those back to the pool that nobody used; False when no other is left here."""
        for each in self._idle.unused():
            self._pool.putconn(each)
        return bool(self._idle)

    def close(self) -> None:
        """Give all of them back to the pool. Idempotent."""
        self._ended.set()
        for each in self._idle.end():
            self._pool.putconn(each)


def _watch(cache: "weakref.ref[ConnectionCache]", ended: threading.Event) -> None:
    while not ended.wait(_KEEP_S):
        # No reference stays while it waits: a client that is dropped without a close goes with its connections.
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
        self._watcher: asyncio.Task[None] | None = None

    @property
    def reused(self) -> int:
        """The number of connections given out without the pool; the pool counts the others."""
        return self._idle.reused

    def __len__(self) -> int:
        return len(self._idle)

    async def get(self) -> AsyncPooledConnection:
        """Return a connection, from here or from the pool. Raises what the pool raises."""
        while (found := self._idle.take()) is not None:
            if await self._works(found):
                return found
        drawn = None
        until = time.monotonic() + self._pool.timeout
        try:
            while drawn is None:
                found = await self._pool.getconn(until - time.monotonic())
                drawn = found if await self._works(found) else None
        finally:
            self._idle.arrived(drawn)
        return drawn

    async def _works(self, connection: AsyncPooledConnection) -> bool:
        """Tell whether a connection is alive; replace it in the pool if not. Usually without a round trip."""
        works = False
        try:
            if closed_by_server(connection):
                # Unless it has only said something unasked.
                await connection.execute("")
            works = True
        except psycopg.Error:
            logger.debug("the server has closed an idle connection", exc_info=True)
        finally:
            if not works:
                await self._pool.putconn(connection)
        return works

    async def put(self, connection: AsyncPooledConnection) -> None:
        """Take back a connection that `get` gave."""
        if connection.pgconn.transaction_status != TransactionStatus.IDLE or not self._idle.keep(connection):
            await self._pool.putconn(connection)
        elif self._idle.unwatched():
            self._watcher = asyncio.create_task(
                _watch_async(weakref.ref(self), self._ended), name="atlasengine-connections"
            )

    async def sweep(self) -> bool:
        """Give those back to the pool that nobody used; False when no other is left here."""
        for each in self._idle.unused():
            await self._pool.putconn(each)
        return bool(self._idle)

    async def close(self) -> None:
        """Give all of them back to the pool. Idempotent."""
        self._ended.set()
        for each in self._idle.end():
            await self._pool.putconn(each)


async def _watch_async(cache: "weakref.ref[AsyncConnectionCache]", ended: asyncio.Event) -> None:
    while not ended.is_set():
        try:
            await asyncio.wait_for(ended.wait(), _KEEP_S)
        except TimeoutError:
            # No reference stays while it waits: a client that is dropped without a close goes with its connections.
            found = cache()
            if found is None or not await found.sweep():
                return
            del found

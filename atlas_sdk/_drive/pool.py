"""The pools of both drivers. They open connections, give them to plans, and raise our errors if this fails."""

import asyncio
import select
import time
from collections.abc import Mapping
from functools import partial
from threading import Lock
from typing import Any

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from atlas_sdk._drive.configure import configure_connection, configure_connection_async, probe
from atlas_sdk._drive.connection_config import ConnectionConfig, logger
from atlas_sdk._drive.failures import no_connection
from atlas_sdk._drive.pooled_connection import AsyncPooledConnection, PooledConnection
from atlas_sdk._drive.shielded import shielded
from atlas_sdk._drive.wakeups import AsyncWakeups, Wakeups
from atlas_sdk._forks import reset_in_children
from atlas_sdk._translate import translate
from atlas_sdk.model.pool import PoolStats

__all__ = ["AsyncPool", "Pool", "has_news"]


class Pool:
    """The connections of a blocking client. A pool that nobody uses opens none, and has no thread."""

    def __init__(self, config: ConnectionConfig) -> None:
        self._config = config
        self.closed = False
        self.wakeups = Wakeups(config)
        self._make()
        self._lock = Lock()
        #: True once `get` may take connections. In a forked child, the pool still has the parent's until then.
        self._started = False
        reset_in_children(self)

    def _make(self) -> None:
        self._pool = ConnectionPool(
            self._config.ready,
            connection_class=PooledConnection,
            configure=partial(configure_connection, self._config),
            **self._config.pool_options(),
        )

    def after_fork(self) -> None:
        """Leave the parent's connections alone in a forked child; the first `get` opens new ones."""
        self._lock = Lock()
        self._started = False

    def open(self) -> None:
        """Prove that the server can be reached, and find out about poolers. Raises DatabaseUnreachable."""
        try:
            probe(self._config)
        except psycopg.Error as exc:
            raise translate(exc, self._config.dsn) from exc

    def close(self) -> None:
        """Close every connection. Idempotent."""
        self.closed = True
        self.wakeups.close()
        self._config.close()
        if self._started:
            self._pool.close()

    def stats(self) -> PoolStats:
        """Return the number of connections, and counts of the requests for a connection."""
        return _stats(self._pool.get_stats())

    def get(self) -> PooledConnection:
        """Return a connection, which the caller gives back with `put`. Raises DatabaseUnreachable and the like."""
        if not self._started:
            self._start()
        until = time.monotonic() + self._config.connect_timeout_s
        try:
            while True:
                connection = self._pool.getconn(until - time.monotonic())
                if self._is_alive(connection):
                    return connection
        except psycopg.Error as exc:
            # The pool only reports that the time is up. A connection attempt shows the reason.
            try:
                probe(self._config)
            except psycopg.Error as cause:
                raise translate(cause, self._config.dsn) from cause
            raise no_connection(exc, self._config, self.stats().in_use) from exc

    def _start(self) -> None:
        with self._lock:
            if not self._started:
                self._make()
                self._pool.open()
                self._started = True

    def _is_alive(self, connection: PooledConnection) -> bool:
        """Return whether the server keeps the connection open; give it back if not. Usually without a round trip."""
        is_alive = False
        try:
            if has_news(connection):
                # The server closed the connection or sent a notice. A query shows which.
                connection.execute("")
            is_alive = True
        except psycopg.Error:
            logger.debug("the server has closed an idle connection", exc_info=True)
        finally:
            if not is_alive:
                self._pool.putconn(connection)
        return is_alive

    def put(self, connection: PooledConnection) -> None:
        """Take back a connection; roll back its open transaction, if any."""
        if connection.pgconn.transaction_status != TransactionStatus.IDLE and not connection.closed:
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error:
                logger.debug("a connection was lost before it could roll back", exc_info=True)
        self._pool.putconn(connection)


class AsyncPool:
    """The connections of an asyncio client. The twin of `Pool`, line by line, without forks."""

    def __init__(self, config: ConnectionConfig) -> None:
        self._config = config
        self.closed = False
        self.wakeups = AsyncWakeups(config)
        self._started = False
        self._pool = AsyncConnectionPool(
            self._ready,
            connection_class=AsyncPooledConnection,
            configure=partial(configure_connection_async, config),
            **config.pool_options(),
        )

    async def _ready(self) -> str:
        return await asyncio.to_thread(self._config.ready)

    async def _probe(self) -> None:
        await asyncio.to_thread(probe, self._config)

    async def open(self) -> None:
        """Prove that the server can be reached, and find out about poolers. Raises DatabaseUnreachable."""
        try:
            await self._probe()
        except psycopg.Error as exc:
            raise translate(exc, self._config.dsn) from exc

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        self.closed = True
        await self.wakeups.close()
        await asyncio.to_thread(self._config.close)
        await self._pool.close()

    def stats(self) -> PoolStats:
        """Return the number of connections, and counts of the requests for a connection."""
        return _stats(self._pool.get_stats())

    async def get(self) -> AsyncPooledConnection:
        """Return a connection, which the caller gives back with `put`. Raises DatabaseUnreachable and the like."""
        if not self._started:
            # A second task may open the pool at the same time, which does nothing.
            await self._pool.open()
            self._started = True
        until = time.monotonic() + self._config.connect_timeout_s
        try:
            while True:
                connection = await self._pool.getconn(until - time.monotonic())
                if await self._is_alive(connection):
                    return connection
        except psycopg.Error as exc:
            # The pool only reports that the time is up. A connection attempt shows the reason.
            try:
                await self._probe()
            except psycopg.Error as cause:
                raise translate(cause, self._config.dsn) from cause
            raise no_connection(exc, self._config, self.stats().in_use) from exc

    async def _is_alive(self, connection: AsyncPooledConnection) -> bool:
        """Return whether the server keeps the connection open; give it back if not. Usually without a round trip."""
        is_alive = False
        try:
            if has_news(connection):
                # The server closed the connection or sent a notice. A query shows which.
                await connection.execute("")
            is_alive = True
        except psycopg.Error:
            logger.debug("the server has closed an idle connection", exc_info=True)
        finally:
            if not is_alive:
                await self._pool.putconn(connection)
        return is_alive

    async def put(self, connection: AsyncPooledConnection) -> None:
        """Take back a connection; roll back its open transaction, if any."""
        interrupted = None
        if connection.pgconn.transaction_status != TransactionStatus.IDLE and not connection.closed:
            try:
                interrupted = await shielded(connection.execute("ROLLBACK"))
            except psycopg.Error:
                logger.debug("a connection was lost before it could roll back", exc_info=True)
        await self._pool.putconn(connection)
        if interrupted is not None:
            raise interrupted


def has_news(connection: Connection[Any] | AsyncConnection[Any]) -> bool:
    """Return whether an idle connection has something to read, as after the server closed it. No round trip."""
    poller = select.poll()
    poller.register(connection.pgconn.socket, select.POLLIN)
    return bool(poller.poll(0))


def _stats(found: Mapping[str, int]) -> PoolStats:
    """Return the counters of a pool; psycopg_pool leaves out those that are zero."""
    size, idle = found.get("pool_size", 0), found.get("pool_available", 0)
    return PoolStats(
        size=size,
        size_max=found.get("pool_max", 0),
        idle=idle,
        in_use=max(0, size - idle),
        waiting=found.get("requests_waiting", 0),
        requests=found.get("requests_num", 0),
        waits=found.get("requests_queued", 0),
        waited_s=found.get("requests_wait_ms", 0) / 1000,
        refused=found.get("requests_errors", 0),
        used_s=found.get("usage_ms", 0) / 1000,
        opened=found.get("connections_num", 0) - found.get("connections_errors", 0),
        opening_s=found.get("connections_ms", 0) / 1000,
        failed=found.get("connections_errors", 0),
        lost=found.get("connections_lost", 0) + found.get("returns_bad", 0),
    )

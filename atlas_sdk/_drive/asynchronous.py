"""The driver for asyncio: the twin of the one for threads, line by line."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, TypeVar, cast
from uuid import UUID

import psycopg
from attrs import evolve
from psycopg import AsyncConnection, AsyncCursor, pq
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool

from atlas_sdk._drive.configure import configure_connection_async, probe
from atlas_sdk._drive.connection_cache import AsyncConnectionCache
from atlas_sdk._drive.connection_config import (
    ConnectionConfig,
    arguments,
    broken_transaction,
    check_open_transaction,
    closed_client,
    columns_of,
    ended_transaction,
    logger,
    not_text,
    result_of,
)
from atlas_sdk._drive.failures import failure, lost_commit
from atlas_sdk._drive.row_security import COMMIT, begin_command, begin_commands
from atlas_sdk._drive.scope import Scope
from atlas_sdk._drive.shielded import call_in_thread, shielded
from atlas_sdk._drive.statement_cache import AsyncPooledConnection
from atlas_sdk._drive.stats import stats_of
from atlas_sdk._heads import HeadCache
from atlas_sdk._plan import Begin, Commit, Context, Effect, Local, Plan, Query, Result, Rollback, enclosed
from atlas_sdk._translate import translate
from atlas_sdk.model.origin import Origin
from atlas_sdk.model.pool import PoolStats

__all__ = ["AsyncDriver", "AsyncView"]

T = TypeVar("T")


class AsyncDriver:
    """Runs plans on a pool of asyncio connections. The twin of `Driver`, line by line."""

    def __init__(self, config: ConnectionConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._pinned: AsyncConnection[Any] | None = None
        #: Held by the one operation that may use the pinned connection.
        self._turn = asyncio.Lock()
        #: The transaction that this one was for is over: its connection is others'.
        self._ended = False
        #: Whether the pinned connection is a caller's.
        self._joined = False
        self._closed = False
        self._pool = AsyncConnectionPool(
            self._ready,
            connection_class=AsyncPooledConnection,
            configure=partial(configure_connection_async, config),
            **config.pool_options(),
        )
        self._cache = AsyncConnectionCache(self._pool)

    async def _ready(self) -> str:
        return await asyncio.to_thread(self._config.ready)

    async def _probe(self) -> None:
        await asyncio.to_thread(probe, self._config)

    @property
    def retries(self) -> int:
        """The number of retries of a call of which nothing was kept."""
        return self._config.retries

    def stats(self) -> PoolStats:
        """Return how many connections there are and what became of those who asked for one."""
        return stats_of(self._pool.get_stats(), spare=len(self._cache), reused=self._cache.reused)

    async def open(self) -> None:
        """Prove that a connection can be had, then start the pool. Raises DatabaseUnreachable."""
        try:
            await self._probe()
        except psycopg.Error as exc:
            raise translate(exc, self._config.dsn) from exc
        await self._pool.open()

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        self._closed = True
        await asyncio.to_thread(self._config.close)
        await self._cache.close()
        await self._pool.close()

    async def run(self, plan: Plan[T], context: Context | None = None) -> T:
        """Run a plan to its end and return what it returns."""
        if self._closed:
            raise closed_client()
        if self._pinned is None:
            return await self._run(plan, Scope(context or self._context, nested=False))
        async with self._turn:
            # One operation at a time on one connection; one that fails leaves the transaction as it was before.
            return await self._run(enclosed(plan), Scope(self._context, nested=True, joined=self._joined))

    async def _run(self, plan: Plan[T], scope: Scope) -> T:
        held: list[AsyncPooledConnection] = []
        try:
            effect = next(plan)
            while True:
                if isinstance(effect, Local):
                    try:
                        answer = await call_in_thread(effect)
                    except Exception as exc:  # noqa: BLE001  # the plan decides: it may skip a file that cannot be read
                        effect = plan.throw(exc)
                    else:
                        effect = plan.send(answer)
                else:
                    effect = plan.send(await self._perform(effect, scope, held))
        except StopIteration as stop:
            return cast("T", stop.value)
        except BaseException as exc:
            if scope.nested and scope.depth:
                await shielded(self._unwind(scope))
            if isinstance(exc, psycopg.Error):
                raise failure(exc, self._config, scope, effect) from exc
            raise
        finally:
            plan.close()
            for connection in held:
                await self._give_back(connection)

    async def _perform(self, effect: Effect, scope: Scope, held: list[AsyncPooledConnection]) -> object:
        if self._ended:
            raise ended_transaction()
        if isinstance(effect, Query):
            tenant = scope.context.tenant
            if tenant is not None and (named := effect.parameters.get("user_id")) is not None:
                scope.context.require_tenant(named)
            if held or self._pinned is not None:
                return await self._execute(self._pinned or held[0], effect)
            connection = await self._get()
            scope.writes += not effect.statement.reads
            if tenant is not None or (connection.path and not effect.statement.commits):
                held.append(connection)
                answer = await self._execute_in_transaction(connection, effect, tenant)
                await self._give_back(held.pop())
                return answer
            try:
                return await self._ask(connection, effect)
            finally:
                await self._cache.put(connection)
        if isinstance(effect, Begin | Commit | Rollback):
            await self._step(effect, scope, held)
            return None
        return scope.context

    async def _step(self, effect: Begin | Commit | Rollback, scope: Scope, held: list[AsyncPooledConnection]) -> None:
        if self._pinned is None and not held:
            held.append(await self._get())
        interrupted = None
        for command in scope.commands(effect, held[0].path if held else b""):
            cursor = (self._pinned or held[0]).cursor()
            interrupted = await shielded(cursor.execute(command, prepare=False)) or interrupted
            scope.heard(cursor)
        if scope.done(effect):
            await self._give_back(held.pop())
        if interrupted is not None:
            raise interrupted

    async def _unwind(self, scope: Scope) -> None:
        """Take back what a failed operation did in the caller's transaction, so that the caller may go on."""
        if self._ended:
            return
        scope.depth = 1
        try:
            for command in scope.commands(Rollback()):
                await cast("AsyncConnection[Any]", self._pinned).execute(command, prepare=False)
            scope.done(Rollback())
        except psycopg.Error:
            # The connection is gone or the transaction beyond repair: its end will say so.
            logger.debug("a failed operation could not be taken back", exc_info=True)

    async def _ask(self, connection: AsyncPooledConnection, query: Query) -> Result:
        """Run a statement that is a transaction of its own."""
        text, parameters = arguments(query)
        if parameters is None:
            return await self._execute(connection, query)
        began = time.perf_counter()
        try:
            answer = await connection.execute_prepared(text, parameters)
        except UnicodeEncodeError as exc:
            raise not_text(exc) from exc
        return result_of(self._config, query, answer, answer.columns, answer.rows, began)

    async def _execute(self, connection: AsyncConnection[Any], query: Query) -> Result:
        began = time.perf_counter()
        return await self._read(query, await self._send(connection, query), began)

    async def _send(self, connection: AsyncConnection[Any], query: Query) -> AsyncCursor[Any]:
        text, parameters = arguments(query)
        try:
            # A caller's connection may give rows as dictionaries.
            return await connection.cursor(row_factory=tuple_row).execute(text, parameters)
        except UnicodeEncodeError as exc:
            raise not_text(exc) from exc

    async def _read(self, query: Query, cursor: AsyncCursor[Any], began: float) -> Result:
        columns = columns_of(cursor)
        rows = await cursor.fetchall() if columns else []
        return result_of(self._config, query, cursor, columns, rows, began)

    async def _execute_in_transaction(
        self, connection: AsyncPooledConnection, query: Query, tenant: UUID | None
    ) -> Result:
        """Run one statement in a transaction of its own, behind a tenant's wall if one is named: one round trip."""
        began, begin = time.perf_counter(), begin_commands(tenant, connection.path)
        try:
            answer = await connection.execute_in_transaction(begin, COMMIT, query.statement.text, query.parameters)
        except UnicodeEncodeError as exc:
            raise not_text(exc) from exc
        return result_of(self._config, query, answer, answer.columns, answer.rows, began)

    async def _get(self) -> AsyncPooledConnection:
        try:
            connection = await self._cache.get()
        except psycopg.Error as exc:
            # The pool only says that time is up: ask the server itself what is wrong.
            try:
                await self._probe()
            except psycopg.Error as cause:
                raise translate(cause, self._config.dsn) from cause
            raise translate(exc, self._config.dsn) from exc
        return connection

    def lending(self, *, origin: Origin, tenant: UUID | None) -> "AsyncView":
        """Return a view of this driver whose plans are done for a request from there, and behind a tenant's wall."""
        return AsyncView(self, evolve(self._context, origin=origin, tenant=tenant))

    async def _give_back(self, connection: AsyncPooledConnection) -> None:
        interrupted = None
        if connection.info.transaction_status != pq.TransactionStatus.IDLE and not connection.closed:
            try:
                interrupted = await shielded(connection.execute("ROLLBACK"))
            except psycopg.Error:
                logger.debug("a connection was lost before it could roll back", exc_info=True)
        await self._cache.put(connection)
        if interrupted is not None:
            raise interrupted

    def _on(self, connection: AsyncConnection[Any], context: Context, *, joined: bool = False) -> "AsyncDriver":
        inner = object.__new__(AsyncDriver)
        inner.__dict__ |= self.__dict__
        inner._pinned = connection
        inner._turn = asyncio.Lock()
        inner._context = context
        inner._joined = joined
        return inner

    def _apart(self, context: Context | None) -> Context:
        """Return the context of one transaction's plans: what it learns is its own until it is committed."""
        return evolve(context or self._context, heads=HeadCache(of_transaction=True))

    def joined(self, connection: AsyncConnection[Any], context: Context | None = None) -> "AsyncDriver":
        """Return a driver whose plans all run in the transaction of a caller's connection. Raises InvalidInput."""
        if self._closed:
            raise closed_client()
        check_open_transaction(connection)
        context = context or self._context
        return self._on(connection, evolve(context, heads=context.heads.of_joined()), joined=True)

    @asynccontextmanager
    async def transaction(self, context: Context | None = None) -> AsyncIterator["AsyncDriver"]:
        """Yield a driver whose plans all run in one transaction; an exception rolls everything back."""
        if self._closed:
            raise closed_client()
        if self._pinned is not None:
            yield self
            return
        connection = await self._get()
        context = self._apart(context)
        inner = self._on(connection, context)
        try:
            await connection.execute(begin_command(context.tenant, connection.path), prepare=False)
            yield inner
            await inner.end()
            if connection.info.transaction_status == pq.TransactionStatus.INERROR:
                # A COMMIT would roll back without a word.
                raise broken_transaction()
            try:
                interrupted = await shielded(connection.execute("COMMIT"))
            except psycopg.Error as exc:
                raise lost_commit(exc, self._config) from exc
            self._context.heads.adopt(context.heads)
            if interrupted is not None:
                raise interrupted
        except psycopg.Error as exc:
            raise translate(exc, self._config.dsn) from exc
        finally:
            try:
                await inner.end()
            finally:
                await self._give_back(connection)

    async def end(self) -> None:
        """Let no operation of another task run on the connection any more, once it is others'."""
        try:
            async with self._turn:
                self._ended = True
        except asyncio.CancelledError:
            # Whoever is at it is not to go on with it.
            self._ended = True
            await cast("AsyncConnection[Any]", self._pinned).close()
            raise


class AsyncView:
    """A driver's connections, for plans with another context."""

    def __init__(self, driver: AsyncDriver, context: Context) -> None:
        self._driver = driver
        self._context = context

    @property
    def retries(self) -> int:
        """The number of retries of a call of which nothing was kept."""
        return self._driver.retries

    def stats(self) -> PoolStats:
        """Return how many connections there are and what became of those who asked for one."""
        return self._driver.stats()

    async def run(self, plan: Plan[T]) -> T:
        """Run a plan to its end and return what it returns."""
        return await self._driver.run(plan, self._context)

    def joined(self, connection: AsyncConnection[Any]) -> AsyncDriver:
        """Return a driver whose plans all run in the transaction of a caller's connection. Raises InvalidInput."""
        return self._driver.joined(connection, self._context)

    def transaction(self) -> AbstractAsyncContextManager[AsyncDriver]:
        """Yield a driver whose plans all run in one transaction; an exception rolls everything back."""
        return self._driver.transaction(self._context)

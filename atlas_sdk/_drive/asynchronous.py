"""The driver for asyncio: the twin of the one for threads, line by line."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar, cast

import psycopg
from attrs import evolve
from psycopg import AsyncConnection, pq
from psycopg_pool import AsyncConnectionPool

from atlas_sdk._drive.scope import Scope
from atlas_sdk._drive.target import (
    Target,
    arguments,
    broken_transaction,
    closed_client,
    columns_of,
    hung_up,
    logger,
    not_text,
    result_of,
)
from atlas_sdk._heads import Heads
from atlas_sdk._plan import Begin, Commit, Context, Effect, Local, Plan, Query, Result, Rollback, enclosed
from atlas_sdk._translate import translate
from atlas_sdk.model.origin import Origin

__all__ = ["AsyncDriver", "AsyncView"]

T = TypeVar("T")


async def _check_async(connection: AsyncConnection[Any]) -> None:
    if hung_up(connection):
        await connection.execute("")


class AsyncDriver:
    """Runs plans on a pool of asyncio connections. The twin of `Driver`, line by line."""

    def __init__(self, target: Target, lent: Context) -> None:
        self._target = target
        self._lent = lent
        self._pinned: AsyncConnection[Any] | None = None
        #: Held by the one operation that may use the pinned connection.
        self._turn = asyncio.Lock()
        self._closed = False
        self._pool = AsyncConnectionPool(self._ready, check=_check_async, **target.pool_options())

    async def _ready(self) -> str:
        return await asyncio.to_thread(self._target.ready)

    async def _probe(self) -> None:
        connection = await AsyncConnection.connect(await self._ready(), **self._target.kwargs)
        await connection.close()

    async def open(self) -> None:
        """Prove that a connection can be had, then start the pool. Raises DatabaseUnreachable."""
        try:
            await self._probe()
        except psycopg.Error as exc:
            raise translate(exc, self._target.dsn) from exc
        await self._pool.open()

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        self._closed = True
        await self._pool.close()

    async def run(self, plan: Plan[T], lent: Context | None = None) -> T:
        """Run a plan to its end and return what it returns."""
        if self._closed:
            raise closed_client()
        if self._pinned is None:
            return await self._run(plan, Scope(lent or self._lent, nested=False))
        async with self._turn:
            # One operation at a time on one connection; one that fails leaves the transaction as it was before.
            return await self._run(enclosed(plan), Scope(self._lent, nested=True))

    async def _run(self, plan: Plan[T], scope: Scope) -> T:
        held: list[AsyncConnection[Any]] = []
        try:
            effect = next(plan)
            while True:
                if isinstance(effect, Local):
                    try:
                        answer = await asyncio.to_thread(effect.call)
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
                await self._unwind(scope)
            if isinstance(exc, psycopg.Error):
                raise translate(exc, self._target.dsn) from exc
            raise
        finally:
            plan.close()
            for connection in held:
                await self._give_back(connection)

    async def _perform(self, effect: Effect, scope: Scope, held: list[AsyncConnection[Any]]) -> object:
        if isinstance(effect, Query):
            if held or self._pinned is not None:
                return await self._execute(self._pinned or held[0], effect)
            connection = await self._get()
            try:
                return await self._execute(connection, effect)
            finally:
                await self._pool.putconn(connection)
        if isinstance(effect, Begin | Commit | Rollback):
            if self._pinned is None and not held:
                held.append(await self._get())
            for command in scope.commands(effect):
                await (self._pinned or held[0]).execute(command)
            if scope.done(effect):
                await self._give_back(held.pop())
            return None
        return scope.lent

    async def _unwind(self, scope: Scope) -> None:
        """Take back what a failed operation did in the caller's transaction, so that the caller may go on."""
        scope.depth = 1
        try:
            for command in scope.commands(Rollback()):
                await cast("AsyncConnection[Any]", self._pinned).execute(command)
            scope.done(Rollback())
        except psycopg.Error:
            # The connection is gone or the transaction beyond repair: its end will say so.
            logger.debug("a failed operation could not be taken back", exc_info=True)

    async def _execute(self, connection: AsyncConnection[Any], query: Query) -> Result:
        began = time.perf_counter()
        text, parameters = arguments(query)
        try:
            cursor = await connection.execute(text, parameters)
        except UnicodeEncodeError as exc:
            raise not_text(exc) from exc
        columns = columns_of(cursor)
        rows = await cursor.fetchall() if columns else []
        return result_of(self._target, query, cursor, columns, rows, began)

    async def _get(self) -> AsyncConnection[Any]:
        try:
            connection: AsyncConnection[Any] = await self._pool.getconn()
        except psycopg.Error as exc:
            # The pool only says that time is up: ask the server itself what is wrong.
            try:
                await self._probe()
            except psycopg.Error as cause:
                raise translate(cause, self._target.dsn) from cause
            raise translate(exc, self._target.dsn) from exc
        return connection

    def lending(self, origin: Origin) -> "AsyncView":
        """Return a view of this driver whose plans are done for a request from there."""
        return AsyncView(self, evolve(self._lent, origin=origin))

    async def _give_back(self, connection: AsyncConnection[Any]) -> None:
        if connection.info.transaction_status != pq.TransactionStatus.IDLE and not connection.closed:
            try:
                await connection.execute("ROLLBACK")
            except psycopg.Error:
                logger.debug("a connection was lost before it could roll back", exc_info=True)
        await self._pool.putconn(connection)

    @asynccontextmanager
    async def transaction(self, lent: Context | None = None) -> AsyncIterator["AsyncDriver"]:
        """Yield a driver whose plans all run in one transaction; an exception rolls everything back."""
        if self._closed:
            raise closed_client()
        if self._pinned is not None:
            yield self
            return
        connection = await self._get()
        try:
            inner = object.__new__(AsyncDriver)
            inner.__dict__ |= self.__dict__
            inner._pinned = connection
            inner._turn = asyncio.Lock()
            inner._lent = evolve(lent or self._lent, heads=Heads(of_transaction=True))
            try:
                await connection.execute("BEGIN")
                yield inner
                if connection.info.transaction_status == pq.TransactionStatus.INERROR:
                    # A COMMIT would roll back without a word.
                    raise broken_transaction()
                await connection.execute("COMMIT")
            except psycopg.Error as exc:
                raise translate(exc, self._target.dsn) from exc
            self._lent.heads.adopt(inner._lent.heads)
        finally:
            await self._give_back(connection)


class AsyncView:
    """A driver's connections, for plans that are lent something else."""

    def __init__(self, driver: AsyncDriver, lent: Context) -> None:
        self._driver = driver
        self._lent = lent

    async def run(self, plan: Plan[T]) -> T:
        """Run a plan to its end and return what it returns."""
        return await self._driver.run(plan, self._lent)

    def transaction(self) -> AbstractAsyncContextManager[AsyncDriver]:
        """Yield a driver whose plans all run in one transaction; an exception rolls everything back."""
        return self._driver.transaction(self._lent)

"""The driver for asyncio: the twin of the one for threads, line by line."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
    columns_of,
    hung_up,
    logger,
    not_text,
    result_of,
)
from atlas_sdk._heads import Heads
from atlas_sdk._plan import Begin, Commit, Context, Effect, Local, Plan, Query, Result, Rollback, enclosed
from atlas_sdk._translate import translate

__all__ = ["AsyncDriver"]

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
        await self._pool.close()

    async def run(self, plan: Plan[T]) -> T:
        """Run a plan to its end and return what it returns."""
        scope = Scope(self._lent, nested=self._pinned is not None)
        if scope.nested:
            # An operation that fails leaves the caller's transaction as it was before.
            plan = enclosed(plan)
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
        except psycopg.Error as exc:
            if scope.nested and scope.depth:
                await self._unwind(scope)
            raise translate(exc, self._target.dsn) from exc
        finally:
            plan.close()
            for connection in held:
                await self._give_back(connection)

    async def _perform(self, effect: Effect, scope: Scope, held: list[AsyncConnection[Any]]) -> object:
        if isinstance(effect, Query):
            if held or self._pinned is not None:
                return await self._execute(held[0] if held else cast("AsyncConnection[Any]", self._pinned), effect)
            connection = await self._get()
            try:
                return await self._execute(connection, effect)
            finally:
                await self._pool.putconn(connection)
        if isinstance(effect, Begin | Commit | Rollback):
            if self._pinned is None and not held:
                held.append(await self._get())
            connection = self._pinned or held[0]
            await connection.execute(scope.command(effect))
            if scope.ended(effect):
                await self._give_back(held.pop())
            return None
        return scope.lent

    async def _unwind(self, scope: Scope) -> None:
        """Leave the caller's transaction usable: take back what the failed plan did in it."""
        scope.depth = 1
        command = scope.command(Rollback())
        if self._pinned is not None and not self._pinned.closed:
            await self._pinned.execute(command)

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

    async def _give_back(self, connection: AsyncConnection[Any]) -> None:
        if connection.info.transaction_status != pq.TransactionStatus.IDLE and not connection.closed:
            try:
                await connection.execute("ROLLBACK")
            except psycopg.Error:
                logger.debug("a connection was lost before it could roll back", exc_info=True)
        await self._pool.putconn(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["AsyncDriver"]:
        """Yield a driver whose plans all run in one transaction; an exception rolls everything back."""
        if self._pinned is not None:
            yield self
            return
        connection = await self._get()
        try:
            inner = object.__new__(AsyncDriver)
            inner.__dict__ |= self.__dict__
            inner._pinned = connection
            inner._lent = evolve(self._lent, heads=Heads(of_transaction=True))
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

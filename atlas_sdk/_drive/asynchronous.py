"""The driver for asyncio: the twin of the driver for threads, line by line."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast
from uuid import UUID

import psycopg
from attrs import evolve
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from atlas_sdk._context import Context
from atlas_sdk._drive.connection_config import ConnectionConfig, logger
from atlas_sdk._drive.cursor import arguments, columns_of
from atlas_sdk._drive.failures import (
    broken_transaction,
    check_open_transaction,
    closed_client,
    ended_transaction,
    failure,
    forked_transaction,
    lost_commit,
    not_text,
)
from atlas_sdk._drive.pool import AsyncPool
from atlas_sdk._drive.pooled_connection import AsyncPooledConnection
from atlas_sdk._drive.row_security import COMMIT, begin_command, begin_commands
from atlas_sdk._drive.scope import Scope
from atlas_sdk._drive.shielded import call_in_thread, shielded
from atlas_sdk._drive.wakeups import AsyncWakeups
from atlas_sdk._forks import process
from atlas_sdk._plan import Begin, Commit, Effect, Local, Plan, Query, Result, Rollback, enclosed
from atlas_sdk._translate import translate
from atlas_sdk.model.origin import Origin
from atlas_sdk.model.pool import PoolStats

__all__ = ["AsyncDriver", "AsyncTransactionDriver"]

T = TypeVar("T")


class AsyncDriver:
    """A driver that runs plans on a pool of asyncio connections. The twin of `Driver`, line by line."""

    def __init__(self, config: ConnectionConfig, context: Context, *, pool: AsyncPool | None = None) -> None:
        self._config = config
        self._context = context
        self._pool = pool or AsyncPool(config)

    def view(self, *, origin: Origin, tenant: UUID | None) -> "AsyncDriver":
        """Return a driver on the same pool that runs plans for one request, and for one tenant if one is given."""
        return AsyncDriver(self._config, evolve(self._context, origin=origin, tenant=tenant), pool=self._pool)

    @property
    def retries(self) -> int:
        """The most repetitions of a failed call that changed nothing."""
        return self._config.retries

    @property
    def wakeups(self) -> AsyncWakeups:
        """The subscriptions of the client's waiting calls."""
        return self._pool.wakeups

    def stats(self) -> PoolStats:
        """Return the number of connections, and counts of the requests for a connection."""
        return self._pool.stats()

    async def open(self) -> None:
        """Prove that the server can be reached, then start the pool. Raises DatabaseUnreachable."""
        await self._pool.open()

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        await self._pool.close()

    async def run(self, plan: Plan[T]) -> T:
        """Run a plan to its end and return its result."""
        if self._pool.closed:
            raise closed_client()
        return await self.interpret(plan, Scope(self._context))

    async def interpret(self, plan: Plan[T], scope: Scope) -> T:
        """Carry out the effects of a plan, one after the other."""
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
                    effect = plan.send(await self._perform(effect, scope))
        except StopIteration as stop:
            return cast("T", stop.value)
        except BaseException as exc:
            if scope.transaction is not None and scope.depth:
                await shielded(self._unwind(scope))
            if isinstance(exc, psycopg.Error):
                raise failure(exc, self._config, scope, effect) from exc
            raise
        finally:
            plan.close()
            if scope.transaction is None and scope.connection is not None:
                await self._pool.put(scope.release())

    async def _perform(self, effect: Effect, scope: Scope) -> object:
        if scope.transaction is not None and scope.transaction.ended:
            raise ended_transaction()
        if isinstance(effect, Query):
            return await self._query(effect, scope)
        if isinstance(effect, Begin | Commit | Rollback):
            await self._step(effect, scope)
            return None
        return scope.context

    async def _step(self, effect: Begin | Commit | Rollback, scope: Scope) -> None:
        if scope.connection is None:
            scope.use(await self._pool.get())
        interrupted = None
        for command in scope.commands(effect):
            cursor = scope.connection.cursor()
            interrupted = await shielded(cursor.execute(command, prepare=False)) or interrupted
            scope.note_answer(cursor)
        if scope.completed(effect):
            await self._pool.put(scope.release())
        if interrupted is not None:
            raise interrupted

    async def _query(self, query: Query, scope: Scope) -> Result:
        tenant = scope.context.tenant
        if tenant is not None and (named := query.parameters.get("user_id")) is not None:
            scope.context.require_tenant(named)
        pooled = await self._pool.get() if scope.connection is None else None
        began = time.perf_counter()
        try:
            if pooled is None:
                result = await _execute(scope.connection, query)
            else:
                scope.writes += not query.statement.reads
                result = await _execute_alone(pooled, query, tenant)
            if self._config.query_log or self._config.slow is not None:
                self._config.log(query, result.count, began)
        except UnicodeEncodeError as exc:
            raise not_text(exc) from exc
        else:
            return result
        finally:
            if pooled is not None:
                await self._pool.put(pooled)

    async def _unwind(self, scope: Scope) -> None:
        """Roll a failed operation back in the caller's transaction, so that the caller can continue."""
        if scope.transaction is None or scope.transaction.ended:
            return
        scope.depth = 1
        try:
            for command in scope.commands(Rollback()):
                await scope.connection.execute(command, prepare=False)
            scope.completed(Rollback())
        except psycopg.Error:
            # The connection is lost or the transaction is beyond repair: the caller's COMMIT will fail.
            logger.debug("a failed operation could not be rolled back", exc_info=True)

    def joined(self, connection: AsyncConnection[Any]) -> "AsyncTransactionDriver":
        """Return a driver that runs plans in the transaction of a caller's connection. Raises InvalidInput."""
        if self._pool.closed:
            raise closed_client()
        check_open_transaction(connection)
        return AsyncTransactionDriver(self, connection, self._context.join(), is_callers=True)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["AsyncTransactionDriver"]:
        """Yield a driver that runs all plans in one transaction; an exception rolls everything back."""
        if self._pool.closed:
            raise closed_client()
        connection = await self._pool.get()
        context = self._context.begin()
        inner = AsyncTransactionDriver(self, connection, context)
        try:
            await connection.execute(begin_command(context.tenant, connection.path), prepare=False)
            yield inner
            await inner.end()
            if connection.info.transaction_status == TransactionStatus.INERROR:
                # A COMMIT would roll back without an error.
                raise broken_transaction()
            try:
                interrupted = await shielded(connection.execute("COMMIT"))
            except psycopg.Error as exc:
                raise lost_commit(exc, self._config) from exc
            self._context.commit(context)
            if interrupted is not None:
                raise interrupted
        except psycopg.Error as exc:
            raise translate(exc, self._config.dsn) from exc
        finally:
            try:
                await inner.end()
            finally:
                await self._pool.put(connection)


class AsyncTransactionDriver:
    """A driver that runs plans in the open transaction of one connection, one at a time. See `TransactionDriver`."""

    def __init__(
        self, driver: AsyncDriver, connection: AsyncConnection[Any], context: Context, *, is_callers: bool = False
    ) -> None:
        self._driver = driver
        self._context = context
        self.connection = connection
        #: True if the caller made the connection.
        self.is_callers = is_callers
        #: True if the transaction is over. Another caller may already use its connection.
        self.ended = False
        self._generation = process.generation
        #: The running plan holds this lock, because only one plan at a time may use the connection.
        self._lock = asyncio.Lock()

    @property
    def retries(self) -> int:
        """The most repetitions of a failed call that changed nothing."""
        return self._driver.retries

    async def run(self, plan: Plan[T]) -> T:
        """Run a plan in a savepoint and return its result. A plan that fails leaves the transaction as it was."""
        if process.generation != self._generation:
            raise forked_transaction()
        async with self._lock:
            return await self._driver.interpret(enclosed(plan), Scope(self._context, self, self.connection))

    async def end(self) -> None:
        """Wait for the running plan, and refuse later plans."""
        try:
            async with self._lock:
                self.ended = True
        except asyncio.CancelledError:
            # Close the connection, so that the running plan stops: the connection goes back to the pool.
            self.ended = True
            await self.connection.close()
            raise


async def _execute(connection: AsyncConnection[Any], query: Query) -> Result:
    text, parameters = arguments(query)
    # A caller's connection may return rows as dictionaries.
    cursor = await connection.cursor(row_factory=tuple_row).execute(text, parameters)
    columns = columns_of(cursor)
    return Result(columns, await cursor.fetchall() if columns else [], cursor.rowcount)


async def _execute_alone(connection: AsyncPooledConnection, query: Query, tenant: UUID | None) -> Result:
    """Run a statement that is a transaction of its own, in one round trip."""
    text, parameters = query.statement.text, query.parameters
    if tenant is not None or (connection.path and not query.statement.commits):
        return await connection.execute_in_transaction(
            begin_commands(tenant, connection.path), COMMIT, text, parameters
        )
    if not parameters:
        return await _execute(connection, query)
    return await connection.execute_prepared(text, parameters)

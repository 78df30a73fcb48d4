"""Drivers: run plans on psycopg connections, blocking or on asyncio. The only place that touches one."""

import asyncio
import json
import logging
import os
import select
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, LiteralString, TypeVar, cast

import psycopg
from attrs import evolve
from psycopg import AsyncConnection, Connection, pq
from psycopg.adapt import Buffer, Dumper
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from atlas_sdk._heads import Heads
from atlas_sdk._plan import Begin, Commit, Context, Effect, Json, Local, Plan, Query, Result, Rollback
from atlas_sdk._translate import translate

__all__ = ["AsyncDriver", "Driver", "Target"]

T = TypeVar("T")
logger = logging.getLogger("atlas_sdk.queries")


class _JsonDumper(Dumper):
    oid = psycopg.adapters.types["jsonb"].oid

    def dump(self, obj: Json) -> Buffer | None:
        return json.dumps(obj.value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


psycopg.adapters.register_dumper(Json, _JsonDumper)


class Target:
    """Where to connect, and how."""

    def __init__(
        self,
        dsn: str,
        *,
        before_connect: Callable[[], None] | None = None,
        pool_max: int = 20,
        idle_s: float = 30.0,
        connect_timeout_s: float = 5.0,
        prepare: bool = False,
        query_log: bool = False,
    ) -> None:
        self.dsn = dsn
        #: Called before every new connection: the embedded server is started again if it died.
        self.before_connect = before_connect
        self.query_log = query_log
        self.pool_max = pool_max
        self.idle_s = idle_s
        self.connect_timeout_s = connect_timeout_s
        # Prepared statements do not survive PgBouncer in transaction mode before 1.21, so a DSN gets none unless asked.
        self.kwargs: dict[str, Any] = {
            "autocommit": True,
            "prepare_threshold": 1 if prepare else None,
            "connect_timeout": max(1, round(connect_timeout_s)),
            "application_name": "atlasengine",
        }

    def ready(self) -> str:
        """Return the DSN of a server that has been asked to run."""
        if self.before_connect is not None:
            self.before_connect()
        return self.dsn

    def pool_options(self) -> dict[str, Any]:
        """Return what both pools take."""
        return {
            "kwargs": self.kwargs,
            "min_size": 0,
            "max_size": self.pool_max,
            "max_idle": self.idle_s,
            "timeout": self.connect_timeout_s,
            "reconnect_timeout": self.connect_timeout_s,
            "num_workers": 1,
            "open": False,
        }


def _hung_up(connection: Connection[Any] | AsyncConnection[Any]) -> bool:
    """Whether the server closed an idle connection: then its socket is readable. No round trip."""
    poller = select.poll()
    poller.register(connection.pgconn.socket, select.POLLIN)
    return bool(poller.poll(0))


def _check(connection: Connection[Any]) -> None:
    if _hung_up(connection):
        connection.execute("")


async def _check_async(connection: AsyncConnection[Any]) -> None:
    if _hung_up(connection):
        await connection.execute("")


def _columns(cursor: Any) -> tuple[str, ...]:
    return tuple(column.name for column in cursor.description)


def _log(target: Target, query: Query, began: float, rows: int) -> None:
    if target.query_log:
        milliseconds = (time.perf_counter() - began) * 1000
        logger.debug("%s: %.1f ms, %d rows", query.statement.name, milliseconds, rows)


def _arguments(query: Query) -> tuple[LiteralString, Mapping[str, object] | None]:
    # Without parameters the text may hold several statements, as a migration does.
    return cast("LiteralString", query.statement.text), query.parameters or None


class _Scope:
    """What one run of a plan holds: how deep its transactions are nested, and what they learned so far."""

    def __init__(self, lent: Context, *, nested: bool) -> None:
        self.lent = lent
        self.outer = lent
        #: Whether the caller has a transaction open: then ours are savepoints in it.
        self.nested = nested
        self.depth = 0

    def command(self, effect: Begin | Commit | Rollback) -> LiteralString:
        """Return the SQL for one step of nesting, and keep the count and the cache of heads right."""
        if isinstance(effect, Begin):
            self.depth += 1
        outermost = self.depth == 1 and not self.nested
        savepoint = cast("LiteralString", f"atlas_{self.depth}")
        if isinstance(effect, Begin):
            if outermost:
                # What a transaction learns is nobody else's business until it is committed.
                self.lent = evolve(self.outer, heads=Heads())
            return "BEGIN" if outermost else "SAVEPOINT " + savepoint
        self.depth -= 1
        if isinstance(effect, Commit):
            return "COMMIT" if outermost else "RELEASE SAVEPOINT " + savepoint
        self.lent.heads.clear()
        return "ROLLBACK" if outermost else "ROLLBACK TO SAVEPOINT " + savepoint

    def ended(self, effect: Begin | Commit | Rollback) -> bool:
        """Whether the plan's own transaction is over now; a commit publishes what it learned."""
        over = self.depth == 0 and not self.nested and not isinstance(effect, Begin)
        if over:
            if isinstance(effect, Commit):
                self.outer.heads.adopt(self.lent.heads)
            self.lent = self.outer
        return over


class Driver:
    """Runs plans on a pool of blocking connections."""

    def __init__(self, target: Target, lent: Context) -> None:
        self._target = target
        self._lent = lent
        self._pinned: Connection[Any] | None = None
        self._pid = os.getpid()
        self._pool = self._new_pool()

    def _new_pool(self) -> ConnectionPool[Connection[Any]]:
        return ConnectionPool(self._target.ready, check=_check, **self._target.pool_options())

    def open(self) -> None:
        """Prove that a connection can be had, then start the pool. Raises DatabaseUnreachable."""
        try:
            psycopg.connect(self._target.ready(), **self._target.kwargs).close()
        except psycopg.Error as exc:
            raise translate(exc, self._target.dsn) from exc
        self._pool.open()

    def close(self) -> None:
        """Close every connection. Idempotent."""
        if os.getpid() == self._pid:
            self._pool.close()

    def run(self, plan: Plan[T]) -> T:
        """Run a plan to its end and return what it returns."""
        scope = _Scope(self._lent, nested=self._pinned is not None)
        held: list[Connection[Any]] = []
        try:
            effect = next(plan)
            while True:
                if isinstance(effect, Local):
                    try:
                        answer = effect.call()
                    except Exception as exc:  # noqa: BLE001  # the plan decides: it may skip a file that cannot be read
                        effect = plan.throw(exc)
                    else:
                        effect = plan.send(answer)
                else:
                    effect = plan.send(self._perform(effect, scope, held))
        except StopIteration as stop:
            return cast("T", stop.value)
        except psycopg.Error as exc:
            if scope.nested and scope.depth:
                self._unwind(scope)
            raise translate(exc, self._target.dsn) from exc
        finally:
            plan.close()
            for connection in held:
                self._give_back(connection)

    def _perform(self, effect: Effect, scope: _Scope, held: list[Connection[Any]]) -> object:
        if isinstance(effect, Query):
            if held or self._pinned is not None:
                return self._execute(held[0] if held else cast("Connection[Any]", self._pinned), effect)
            with self._connection() as connection:
                return self._execute(connection, effect)
        if isinstance(effect, Begin | Commit | Rollback):
            if self._pinned is None and not held:
                held.append(self._get())
            connection = self._pinned or held[0]
            connection.execute(scope.command(effect))
            if scope.ended(effect):
                self._give_back(held.pop())
            return None
        return scope.lent

    def _unwind(self, scope: _Scope) -> None:
        """Leave the caller's transaction usable: take back what the failed plan did in it."""
        scope.depth = 1
        command = scope.command(Rollback())
        if self._pinned is not None and not self._pinned.closed:
            self._pinned.execute(command)

    def _execute(self, connection: Connection[Any], query: Query) -> Result:
        began = time.perf_counter()
        text, parameters = _arguments(query)
        cursor = connection.execute(text, parameters)
        rows = [] if cursor.description is None else cursor.fetchall()
        _log(self._target, query, began, cursor.rowcount)
        return Result(() if cursor.description is None else _columns(cursor), rows, cursor.rowcount)

    def _get(self) -> Connection[Any]:
        if os.getpid() != self._pid:
            # A forked child must not talk on its parent's connections: leave them alone and open its own.
            self._pid = os.getpid()
            self._pool = self._new_pool()
            self._lent.heads.clear()
            self._pool.open()
        try:
            return self._pool.getconn()
        except psycopg.Error as exc:
            # The pool only says that time is up: ask the server itself what is wrong.
            try:
                psycopg.connect(self._target.ready(), **self._target.kwargs).close()
            except psycopg.Error as cause:
                raise translate(cause, self._target.dsn) from cause
            raise translate(exc, self._target.dsn) from exc

    def _give_back(self, connection: Connection[Any]) -> None:
        if connection.info.transaction_status != pq.TransactionStatus.IDLE and not connection.closed:
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error:
                logger.debug("a connection was lost before it could roll back", exc_info=True)
        self._pool.putconn(connection)

    @contextmanager
    def _connection(self) -> Iterator[Connection[Any]]:
        connection = self._get()
        try:
            yield connection
        finally:
            self._pool.putconn(connection)

    @contextmanager
    def transaction(self) -> Iterator["Driver"]:
        """Yield a driver whose plans all run in one transaction; an exception rolls everything back."""
        if self._pinned is not None:
            yield self
            return
        connection = self._get()
        try:
            inner = object.__new__(Driver)
            inner.__dict__ |= self.__dict__
            inner._pinned = connection
            inner._lent = evolve(self._lent, heads=Heads())
            try:
                connection.execute("BEGIN")
                yield inner
                connection.execute("COMMIT")
            except psycopg.Error as exc:
                raise translate(exc, self._target.dsn) from exc
            self._lent.heads.adopt(inner._lent.heads)
        finally:
            self._give_back(connection)


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
        scope = _Scope(self._lent, nested=self._pinned is not None)
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

    async def _perform(self, effect: Effect, scope: _Scope, held: list[AsyncConnection[Any]]) -> object:
        if isinstance(effect, Query):
            if held or self._pinned is not None:
                return await self._execute(held[0] if held else cast("AsyncConnection[Any]", self._pinned), effect)
            async with self._connection() as connection:
                return await self._execute(connection, effect)
        if isinstance(effect, Begin | Commit | Rollback):
            if self._pinned is None and not held:
                held.append(await self._get())
            connection = self._pinned or held[0]
            await connection.execute(scope.command(effect))
            if scope.ended(effect):
                await self._give_back(held.pop())
            return None
        return scope.lent

    async def _unwind(self, scope: _Scope) -> None:
        """Leave the caller's transaction usable: take back what the failed plan did in it."""
        scope.depth = 1
        command = scope.command(Rollback())
        if self._pinned is not None and not self._pinned.closed:
            await self._pinned.execute(command)

    async def _execute(self, connection: AsyncConnection[Any], query: Query) -> Result:
        began = time.perf_counter()
        text, parameters = _arguments(query)
        cursor = await connection.execute(text, parameters)
        rows = [] if cursor.description is None else await cursor.fetchall()
        _log(self._target, query, began, cursor.rowcount)
        return Result(() if cursor.description is None else _columns(cursor), rows, cursor.rowcount)

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
    async def _connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        connection = await self._get()
        try:
            yield connection
        finally:
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
            inner._lent = evolve(self._lent, heads=Heads())
            try:
                await connection.execute("BEGIN")
                yield inner
                await connection.execute("COMMIT")
            except psycopg.Error as exc:
                raise translate(exc, self._target.dsn) from exc
            self._lent.heads.adopt(inner._lent.heads)
        finally:
            await self._give_back(connection)

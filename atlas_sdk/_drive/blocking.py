"""The driver for threads."""

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from threading import Lock
from typing import Any, TypeVar, cast
from uuid import UUID

import psycopg
from attrs import evolve
from psycopg import Connection, Cursor, pq
from psycopg.rows import tuple_row
from psycopg_pool import ConnectionPool

from atlas_sdk._drive.configure import configure_connection, probe
from atlas_sdk._drive.connection_cache import ConnectionCache
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
from atlas_sdk._drive.statement_cache import PooledConnection
from atlas_sdk._drive.stats import stats_of
from atlas_sdk._heads import HeadCache
from atlas_sdk._plan import Begin, Commit, Context, Effect, Local, Plan, Query, Result, Rollback, enclosed
from atlas_sdk._translate import translate
from atlas_sdk.errors import InvalidInput
from atlas_sdk.model.origin import Origin
from atlas_sdk.model.pool import PoolStats

__all__ = ["Driver", "View"]

T = TypeVar("T")


class Driver:
    """Runs plans on a pool of blocking connections."""

    def __init__(self, config: ConnectionConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._pinned: Connection[Any] | None = None
        #: Held by the one operation that may use the pinned connection.
        self._turn = Lock()
        #: The transaction that this one was for is over: its connection is others'.
        self._ended = False
        #: Whether the pinned connection is a caller's.
        self._joined = False
        self._closed = False
        self._pool = self._new_pool()
        self._cache = ConnectionCache(self._pool)
        self._pid = os.getpid()

    def _new_pool(self) -> ConnectionPool[PooledConnection]:
        return ConnectionPool(
            self._config.ready,
            connection_class=PooledConnection,
            configure=partial(configure_connection, self._config),
            **self._config.pool_options(),
        )

    @property
    def retries(self) -> int:
        """The number of retries of a call of which nothing was kept."""
        return self._config.retries

    def stats(self) -> PoolStats:
        """Return how many connections there are and what became of those who asked for one."""
        return stats_of(self._pool.get_stats(), spare=len(self._cache), reused=self._cache.reused)

    def open(self) -> None:
        """Prove that a connection can be had, then start the pool. Raises DatabaseUnreachable."""
        try:
            probe(self._config)
        except psycopg.Error as exc:
            raise translate(exc, self._config.dsn) from exc
        self._pool.open()

    def close(self) -> None:
        """Close every connection. Idempotent."""
        self._closed = True
        self._config.close()
        if os.getpid() == self._pid:
            self._cache.close()
            self._pool.close()

    def run(self, plan: Plan[T], context: Context | None = None) -> T:
        """Run a plan to its end and return what it returns."""
        if self._closed:
            raise closed_client()
        if self._pinned is None:
            return self._run(plan, Scope(context or self._context, nested=False))
        if os.getpid() != self._pid:
            raise InvalidInput("a transaction cannot be used in a forked child", field="transaction")
        with self._turn:
            # One operation at a time on one connection; one that fails leaves the transaction as it was before.
            return self._run(enclosed(plan), Scope(self._context, nested=True, joined=self._joined))

    def _run(self, plan: Plan[T], scope: Scope) -> T:
        held: list[PooledConnection] = []
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
        except BaseException as exc:
            if scope.nested and scope.depth:
                self._unwind(scope)
            if isinstance(exc, psycopg.Error):
                raise failure(exc, self._config, scope, effect) from exc
            raise
        finally:
            plan.close()
            for connection in held:
                self._give_back(connection)

    def _perform(self, effect: Effect, scope: Scope, held: list[PooledConnection]) -> object:
        if self._ended:
            raise ended_transaction()
        if isinstance(effect, Query):
            tenant = scope.context.tenant
            if tenant is not None and (named := effect.parameters.get("user_id")) is not None:
                scope.context.require_tenant(named)
            if held or self._pinned is not None:
                return self._execute(self._pinned or held[0], effect)
            connection = self._get()
            scope.writes += not effect.statement.reads
            if tenant is not None or (connection.path and not effect.statement.commits):
                held.append(connection)
                answer = self._execute_in_transaction(connection, effect, tenant)
                self._give_back(held.pop())
                return answer
            try:
                return self._ask(connection, effect)
            finally:
                self._cache.put(connection)
        if isinstance(effect, Begin | Commit | Rollback):
            if self._pinned is None and not held:
                held.append(self._get())
            for command in scope.commands(effect, held[0].path if held else b""):
                scope.heard((self._pinned or held[0]).execute(command, prepare=False))
            if scope.done(effect):
                self._give_back(held.pop())
            return None
        return scope.context

    def _unwind(self, scope: Scope) -> None:
        """Take back what a failed operation did in the caller's transaction, so that the caller may go on."""
        if self._ended:
            return
        scope.depth = 1
        try:
            for command in scope.commands(Rollback()):
                cast("Connection[Any]", self._pinned).execute(command, prepare=False)
            scope.done(Rollback())
        except psycopg.Error:
            # The connection is gone or the transaction beyond repair: its end will say so.
            logger.debug("a failed operation could not be taken back", exc_info=True)

    def _ask(self, connection: PooledConnection, query: Query) -> Result:
        """Run a statement that is a transaction of its own."""
        text, parameters = arguments(query)
        if parameters is None:
            return self._execute(connection, query)
        began = time.perf_counter()
        try:
            answer = connection.execute_prepared(text, parameters)
        except UnicodeEncodeError as exc:
            raise not_text(exc) from exc
        return result_of(self._config, query, answer, answer.columns, answer.rows, began)

    def _execute(self, connection: Connection[Any], query: Query) -> Result:
        began = time.perf_counter()
        return self._read(query, self._send(connection, query), began)

    def _send(self, connection: Connection[Any], query: Query) -> Cursor[Any]:
        text, parameters = arguments(query)
        try:
            # A caller's connection may give rows as dictionaries.
            return connection.cursor(row_factory=tuple_row).execute(text, parameters)
        except UnicodeEncodeError as exc:
            raise not_text(exc) from exc

    def _read(self, query: Query, cursor: Cursor[Any], began: float) -> Result:
        columns = columns_of(cursor)
        rows = cursor.fetchall() if columns else []
        return result_of(self._config, query, cursor, columns, rows, began)

    def _execute_in_transaction(self, connection: PooledConnection, query: Query, tenant: UUID | None) -> Result:
        """Run one statement in a transaction of its own, behind a tenant's wall if one is named: one round trip."""
        began, begin = time.perf_counter(), begin_commands(tenant, connection.path)
        try:
            answer = connection.execute_in_transaction(begin, COMMIT, query.statement.text, query.parameters)
        except UnicodeEncodeError as exc:
            raise not_text(exc) from exc
        return result_of(self._config, query, answer, answer.columns, answer.rows, began)

    def _get(self) -> PooledConnection:
        if os.getpid() != self._pid:
            self._reopen()
        try:
            return self._cache.get()
        except psycopg.Error as exc:
            # The pool only says that time is up: ask the server itself what is wrong.
            try:
                probe(self._config)
            except psycopg.Error as cause:
                raise translate(cause, self._config.dsn) from cause
            raise translate(exc, self._config.dsn) from exc

    def _reopen(self) -> None:
        """Open connections of its own in a forked child: it must not talk on its parent's."""
        with self._turn:
            if os.getpid() != self._pid:
                pool = self._new_pool()
                pool.open()
                self._pool, self._cache, self._pid = pool, ConnectionCache(pool), os.getpid()

    def lending(self, *, origin: Origin, tenant: UUID | None) -> "View":
        """Return a view of this driver whose plans are done for a request from there, and behind a tenant's wall."""
        return View(self, evolve(self._context, origin=origin, tenant=tenant))

    def _give_back(self, connection: PooledConnection) -> None:
        if connection.info.transaction_status != pq.TransactionStatus.IDLE and not connection.closed:
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error:
                logger.debug("a connection was lost before it could roll back", exc_info=True)
        self._cache.put(connection)

    def _on(self, connection: Connection[Any], context: Context, *, joined: bool = False) -> "Driver":
        inner = object.__new__(Driver)
        inner.__dict__ |= self.__dict__
        inner._pinned = connection
        inner._turn = Lock()
        inner._context = context
        inner._joined = joined
        return inner

    def _apart(self, context: Context | None) -> Context:
        """Return the context of one transaction's plans: what it learns is its own until it is committed."""
        return evolve(context or self._context, heads=HeadCache(of_transaction=True))

    def joined(self, connection: Connection[Any], context: Context | None = None) -> "Driver":
        """Return a driver whose plans all run in the transaction of a caller's connection. Raises InvalidInput."""
        if self._closed:
            raise closed_client()
        check_open_transaction(connection)
        context = context or self._context
        return self._on(connection, evolve(context, heads=context.heads.of_joined()), joined=True)

    @contextmanager
    def transaction(self, context: Context | None = None) -> Iterator["Driver"]:
        """Yield a driver whose plans all run in one transaction; an exception rolls everything back."""
        if self._closed:
            raise closed_client()
        if self._pinned is not None:
            yield self
            return
        connection = self._get()
        context = self._apart(context)
        inner = self._on(connection, context)
        try:
            connection.execute(begin_command(context.tenant, connection.path), prepare=False)
            yield inner
            inner.end()
            if connection.info.transaction_status == pq.TransactionStatus.INERROR:
                # A COMMIT would roll back without a word.
                raise broken_transaction()
            try:
                connection.execute("COMMIT")
            except psycopg.Error as exc:
                raise lost_commit(exc, self._config) from exc
            self._context.heads.adopt(context.heads)
        except psycopg.Error as exc:
            raise translate(exc, self._config.dsn) from exc
        finally:
            try:
                inner.end()
            finally:
                self._give_back(connection)

    def end(self) -> None:
        """Let no operation of another thread run on the connection any more, once it is others'."""
        with self._turn:
            self._ended = True


class View:
    """A driver's connections, for plans with another context."""

    def __init__(self, driver: Driver, context: Context) -> None:
        self._driver = driver
        self._context = context

    @property
    def retries(self) -> int:
        """The number of retries of a call of which nothing was kept."""
        return self._driver.retries

    def stats(self) -> PoolStats:
        """Return how many connections there are and what became of those who asked for one."""
        return self._driver.stats()

    def run(self, plan: Plan[T]) -> T:
        """Run a plan to its end and return what it returns."""
        return self._driver.run(plan, self._context)

    def joined(self, connection: Connection[Any]) -> Driver:
        """Return a driver whose plans all run in the transaction of a caller's connection. Raises InvalidInput."""
        return self._driver.joined(connection, self._context)

    def transaction(self) -> AbstractContextManager[Driver]:
        """Yield a driver whose plans all run in one transaction; an exception rolls everything back."""
        return self._driver.transaction(self._context)

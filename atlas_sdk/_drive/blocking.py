"""The driver for threads."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar, cast
from uuid import UUID

import psycopg
from attrs import evolve
from psycopg import Connection
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
from atlas_sdk._drive.pool import Pool
from atlas_sdk._drive.pooled_connection import PooledConnection
from atlas_sdk._drive.row_security import COMMIT, begin_command, begin_commands
from atlas_sdk._drive.scope import Scope
from atlas_sdk._drive.wakeups import Wakeups
from atlas_sdk._forks import process
from atlas_sdk._plan import Begin, Commit, Effect, Local, Plan, Query, Result, Rollback, enclosed
from atlas_sdk._translate import translate
from atlas_sdk.model.origin import Origin
from atlas_sdk.model.pool import PoolStats

__all__ = ["Driver", "TransactionDriver"]

T = TypeVar("T")


class Driver:
    """A driver that runs plans on a pool of blocking connections."""

    def __init__(self, config: ConnectionConfig, context: Context, *, pool: Pool | None = None) -> None:
        self._config = config
        self._context = context
        self._pool = pool or Pool(config)

    def view(self, *, origin: Origin, tenant: UUID | None) -> "Driver":
        """Return a driver on the same pool that runs plans for one request, and for one tenant if one is given."""
        return Driver(self._config, evolve(self._context, origin=origin, tenant=tenant), pool=self._pool)

    @property
    def retries(self) -> int:
        """The most repetitions of a failed call that changed nothing."""
        return self._config.retries

    @property
    def wakeups(self) -> Wakeups:
        """The subscriptions of the client's waiting calls."""
        return self._pool.wakeups

    def stats(self) -> PoolStats:
        """Return the number of connections, and counts of the requests for a connection."""
        return self._pool.stats()

    def open(self) -> None:
        """Prove that the server can be reached, then start the pool. Raises DatabaseUnreachable."""
        self._pool.open()

    def close(self) -> None:
        """Close every connection. Idempotent."""
        self._pool.close()

    def run(self, plan: Plan[T]) -> T:
        """Run a plan to its end and return its result."""
        if self._pool.closed:
            raise closed_client()
        return self.interpret(plan, Scope(self._context))

    def interpret(self, plan: Plan[T], scope: Scope) -> T:
        """Carry out the effects of a plan, one after the other."""
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
                    effect = plan.send(self._perform(effect, scope))
        except StopIteration as stop:
            return cast("T", stop.value)
        except BaseException as exc:
            if scope.transaction is not None and scope.depth:
                self._unwind(scope)
            if isinstance(exc, psycopg.Error):
                raise failure(exc, self._config, scope, effect) from exc
            raise
        finally:
            plan.close()
            if scope.transaction is None and scope.connection is not None:
                self._pool.put(scope.release())

    def _perform(self, effect: Effect, scope: Scope) -> object:
        if scope.transaction is not None and scope.transaction.ended:
            raise ended_transaction()
        if isinstance(effect, Query):
            return self._query(effect, scope)
        if isinstance(effect, Begin | Commit | Rollback):
            if scope.connection is None:
                scope.use(self._pool.get())
            for command in scope.commands(effect):
                scope.note_answer(scope.connection.execute(command, prepare=False))
            if scope.completed(effect):
                self._pool.put(scope.release())
            return None
        return scope.context

    def _query(self, query: Query, scope: Scope) -> Result:
        tenant = scope.context.tenant
        if tenant is not None and (named := query.parameters.get("user_id")) is not None:
            scope.context.require_tenant(named)
        pooled = self._pool.get() if scope.connection is None else None
        began = time.perf_counter()
        try:
            if pooled is None:
                result = _execute(scope.connection, query)
            else:
                scope.writes += not query.statement.reads
                result = _execute_alone(pooled, query, tenant)
            if self._config.query_log or self._config.slow is not None:
                self._config.log(query, result.count, began)
        except UnicodeEncodeError as exc:
            raise not_text(exc) from exc
        else:
            return result
        finally:
            if pooled is not None:
                self._pool.put(pooled)

    def _unwind(self, scope: Scope) -> None:
        """Roll a failed operation back in the caller's transaction, so that the caller can continue."""
        if scope.transaction is None or scope.transaction.ended:
            return
        scope.depth = 1
        try:
            for command in scope.commands(Rollback()):
                scope.connection.execute(command, prepare=False)
            scope.completed(Rollback())
        except psycopg.Error:
            # The connection is lost or the transaction is beyond repair: the caller's COMMIT will fail.
            logger.debug("a failed operation could not be rolled back", exc_info=True)

    def joined(self, connection: Connection[Any]) -> "TransactionDriver":
        """Return a driver that runs plans in the transaction of a caller's connection. Raises InvalidInput."""
        if self._pool.closed:
            raise closed_client()
        check_open_transaction(connection)
        return TransactionDriver(self, connection, self._context.join(), is_callers=True)

    @contextmanager
    def transaction(self) -> Iterator["TransactionDriver"]:
        """Yield a driver that runs all plans in one transaction; an exception rolls everything back."""
        if self._pool.closed:
            raise closed_client()
        connection = self._pool.get()
        context = self._context.begin()
        inner = TransactionDriver(self, connection, context)
        try:
            connection.execute(begin_command(context.tenant, connection.path), prepare=False)
            yield inner
            inner.end()
            if connection.info.transaction_status == TransactionStatus.INERROR:
                # A COMMIT would roll back without an error.
                raise broken_transaction()
            try:
                connection.execute("COMMIT")
            except psycopg.Error as exc:
                raise lost_commit(exc, self._config) from exc
            self._context.commit(context)
        except psycopg.Error as exc:
            raise translate(exc, self._config.dsn) from exc
        finally:
            try:
                inner.end()
            finally:
                self._pool.put(connection)


class TransactionDriver:
    """A driver that runs plans in the open transaction of one connection, one plan at a time."""

    def __init__(
        self, driver: Driver, connection: Connection[Any], context: Context, *, is_callers: bool = False
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
        self._lock = Lock()

    @property
    def retries(self) -> int:
        """The most repetitions of a failed call that changed nothing."""
        return self._driver.retries

    def run(self, plan: Plan[T]) -> T:
        """Run a plan in a savepoint and return its result. A plan that fails leaves the transaction as it was."""
        if process.generation != self._generation:
            raise forked_transaction()
        with self._lock:
            return self._driver.interpret(enclosed(plan), Scope(self._context, self, self.connection))

    def end(self) -> None:
        """Wait for the running plan, and refuse later plans."""
        with self._lock:
            self.ended = True


def _execute(connection: Connection[Any], query: Query) -> Result:
    text, parameters = arguments(query)
    # A caller's connection may return rows as dictionaries.
    cursor = connection.cursor(row_factory=tuple_row).execute(text, parameters)
    columns = columns_of(cursor)
    return Result(columns, cursor.fetchall() if columns else [], cursor.rowcount)


def _execute_alone(connection: PooledConnection, query: Query, tenant: UUID | None) -> Result:
    """Run a statement that is a transaction of its own, in one round trip."""
    text, parameters = query.statement.text, query.parameters
    if tenant is not None or (connection.path and not query.statement.commits):
        return connection.execute_in_transaction(begin_commands(tenant, connection.path), COMMIT, text, parameters)
    if not parameters:
        return _execute(connection, query)
    return connection.execute_prepared(text, parameters)

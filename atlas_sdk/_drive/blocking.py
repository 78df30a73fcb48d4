"""The driver for threads."""

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import Any, TypeVar, cast

import psycopg
from attrs import evolve
from psycopg import Connection, pq
from psycopg_pool import ConnectionPool

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
from atlas_sdk.errors import InvalidInput
from atlas_sdk.model.origin import Origin

__all__ = ["Driver", "View"]

T = TypeVar("T")


def _check(connection: Connection[Any]) -> None:
    if hung_up(connection):
        connection.execute("")


class Driver:
    """Runs plans on a pool of blocking connections."""

    def __init__(self, target: Target, lent: Context) -> None:
        self._target = target
        self._lent = lent
        self._pinned: Connection[Any] | None = None
        #: Held by the one operation that may use the pinned connection.
        self._turn = Lock()
        self._closed = False
        self._pool = self._new_pool()
        self._pid = os.getpid()

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
        self._closed = True
        if os.getpid() == self._pid:
            self._pool.close()

    def run(self, plan: Plan[T], lent: Context | None = None) -> T:
        """Run a plan to its end and return what it returns."""
        if self._closed:
            raise closed_client()
        if self._pinned is None:
            return self._run(plan, Scope(lent or self._lent, nested=False))
        if os.getpid() != self._pid:
            raise InvalidInput("a transaction cannot be used in a forked child", field="transaction")
        with self._turn:
            # One operation at a time on one connection; one that fails leaves the transaction as it was before.
            return self._run(enclosed(plan), Scope(self._lent, nested=True))

    def _run(self, plan: Plan[T], scope: Scope) -> T:
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
        except BaseException as exc:
            if scope.nested and scope.depth:
                self._unwind(scope)
            if isinstance(exc, psycopg.Error):
                raise translate(exc, self._target.dsn) from exc
            raise
        finally:
            plan.close()
            for connection in held:
                self._give_back(connection)

    def _perform(self, effect: Effect, scope: Scope, held: list[Connection[Any]]) -> object:
        if isinstance(effect, Query):
            if held or self._pinned is not None:
                return self._execute(self._pinned or held[0], effect)
            connection = self._get()
            try:
                return self._execute(connection, effect)
            finally:
                self._pool.putconn(connection)
        if isinstance(effect, Begin | Commit | Rollback):
            if self._pinned is None and not held:
                held.append(self._get())
            for command in scope.commands(effect):
                (self._pinned or held[0]).execute(command)
            if scope.done(effect):
                self._give_back(held.pop())
            return None
        return scope.lent

    def _unwind(self, scope: Scope) -> None:
        """Take back what a failed operation did in the caller's transaction, so that the caller may go on."""
        scope.depth = 1
        try:
            for command in scope.commands(Rollback()):
                cast("Connection[Any]", self._pinned).execute(command)
            scope.done(Rollback())
        except psycopg.Error:
            # The connection is gone or the transaction beyond repair: its end will say so.
            logger.debug("a failed operation could not be taken back", exc_info=True)

    def _execute(self, connection: Connection[Any], query: Query) -> Result:
        began = time.perf_counter()
        text, parameters = arguments(query)
        try:
            cursor = connection.execute(text, parameters)
        except UnicodeEncodeError as exc:
            raise not_text(exc) from exc
        columns = columns_of(cursor)
        rows = cursor.fetchall() if columns else []
        return result_of(self._target, query, cursor, columns, rows, began)

    def _get(self) -> Connection[Any]:
        if os.getpid() != self._pid:
            self._reopen()
        try:
            return self._pool.getconn()
        except psycopg.Error as exc:
            # The pool only says that time is up: ask the server itself what is wrong.
            try:
                psycopg.connect(self._target.ready(), **self._target.kwargs).close()
            except psycopg.Error as cause:
                raise translate(cause, self._target.dsn) from cause
            raise translate(exc, self._target.dsn) from exc

    def _reopen(self) -> None:
        """Open connections of its own in a forked child: it must not talk on its parent's."""
        with self._turn:
            if os.getpid() != self._pid:
                pool = self._new_pool()
                pool.open()
                self._pool, self._pid = pool, os.getpid()

    def lending(self, origin: Origin) -> "View":
        """Return a view of this driver whose plans are done for a request from there."""
        return View(self, evolve(self._lent, origin=origin))

    def _give_back(self, connection: Connection[Any]) -> None:
        if connection.info.transaction_status != pq.TransactionStatus.IDLE and not connection.closed:
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error:
                logger.debug("a connection was lost before it could roll back", exc_info=True)
        self._pool.putconn(connection)

    @contextmanager
    def transaction(self, lent: Context | None = None) -> Iterator["Driver"]:
        """Yield a driver whose plans all run in one transaction; an exception rolls everything back."""
        if self._closed:
            raise closed_client()
        if self._pinned is not None:
            yield self
            return
        connection = self._get()
        try:
            inner = object.__new__(Driver)
            inner.__dict__ |= self.__dict__
            inner._pinned = connection
            inner._turn = Lock()
            inner._lent = evolve(lent or self._lent, heads=Heads(of_transaction=True))
            try:
                connection.execute("BEGIN")
                yield inner
                if connection.info.transaction_status == pq.TransactionStatus.INERROR:
                    # A COMMIT would roll back without a word.
                    raise broken_transaction()
                connection.execute("COMMIT")
            except psycopg.Error as exc:
                raise translate(exc, self._target.dsn) from exc
            self._lent.heads.adopt(inner._lent.heads)
        finally:
            self._give_back(connection)


class View:
    """A driver's connections, for plans that are lent something else."""

    def __init__(self, driver: Driver, lent: Context) -> None:
        self._driver = driver
        self._lent = lent

    def run(self, plan: Plan[T]) -> T:
        """Run a plan to its end and return what it returns."""
        return self._driver.run(plan, self._lent)

    def transaction(self) -> AbstractContextManager[Driver]:
        """Yield a driver whose plans all run in one transaction; an exception rolls everything back."""
        return self._driver.transaction(self._lent)

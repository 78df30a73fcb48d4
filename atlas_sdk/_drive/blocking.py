"""The driver for threads."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    columns_of,
    hung_up,
    logger,
    not_text,
    result_of,
)
from atlas_sdk._heads import Heads
from atlas_sdk._plan import Begin, Commit, Context, Effect, Local, Plan, Query, Result, Rollback, enclosed
from atlas_sdk._translate import translate

__all__ = ["Driver"]

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
        scope = Scope(self._lent, nested=self._pinned is not None)
        if scope.nested:
            # An operation that fails leaves the caller's transaction as it was before.
            plan = enclosed(plan)
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

    def _perform(self, effect: Effect, scope: Scope, held: list[Connection[Any]]) -> object:
        if isinstance(effect, Query):
            if held or self._pinned is not None:
                return self._execute(held[0] if held else cast("Connection[Any]", self._pinned), effect)
            connection = self._get()
            try:
                return self._execute(connection, effect)
            finally:
                self._pool.putconn(connection)
        if isinstance(effect, Begin | Commit | Rollback):
            if self._pinned is None and not held:
                held.append(self._get())
            connection = self._pinned or held[0]
            connection.execute(scope.command(effect))
            if scope.ended(effect):
                self._give_back(held.pop())
            return None
        return scope.lent

    def _unwind(self, scope: Scope) -> None:
        """Leave the caller's transaction usable: take back what the failed plan did in it."""
        scope.depth = 1
        command = scope.command(Rollback())
        if self._pinned is not None and not self._pinned.closed:
            self._pinned.execute(command)

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
            inner._lent = evolve(self._lent, heads=Heads(of_transaction=True))
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

"""The log of slow statements: their names and times, and the query plan of each, at most once a minute.

The log never holds a value. The query plan is the generic one, for any values (`$1`, `$2`). A thread prepares the
statement on a connection of its own and asks for the query plan, so the caller does not wait, and sees no error.
"""

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, LiteralString

import psycopg
from attrs import frozen
from psycopg import sql
from psycopg.adapt import PyFormat, Transformer

from atlas_sdk._forks import reset_in_children
from atlas_sdk._plan import Query
from atlas_sdk._sql import Statement

__all__ = ["SlowLog"]

logger = logging.getLogger("atlas_sdk.queries")

#: The log has the query plan of one statement at most once in this time.
_EVERY_S = 60.0
#: The most statements that wait for their query plan. Further statements are logged without a query plan.
_WAITING = 16
#: The thread ends after this time without a slow statement.
_IDLE_S = 5.0
_PARAMETER = re.compile(r"%(?:\((\w+)\)s|%)")
_EXPLAINED = ("SELECT", "WITH", "VALUES", "INSERT", "UPDATE", "DELETE", "MERGE")
#: The settings of the thread. No caller waits for a query plan, so the thread soon gives up on a locked table.
_SETTINGS: tuple[LiteralString, ...] = (
    "SET LOCAL statement_timeout = '5s'",
    "SET LOCAL lock_timeout = '500ms'",
    "SET LOCAL plan_cache_mode = force_generic_plan",
)


@frozen
class _Question:
    name: str
    #: The statement with `$1`, `$2` for its parameters.
    text: str
    types: tuple[str, ...]


class SlowLog:
    """A log of the statements that took longer than a limit, with query plans. All threads of a client share one."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], limit_s: float) -> None:
        self._connect = connect
        self._limit_s = limit_s
        #: The time when the query plan of each statement was last requested, in monotonic seconds.
        self._explained_at: dict[str, float] = {}
        self.after_fork()
        reset_in_children(self)

    def after_fork(self) -> None:
        """Start without a thread in a forked child, which has none of its parent's threads."""
        self._changed = threading.Condition()
        self._questions: deque[_Question] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def executed(self, query: Query, rows: int, seconds: float) -> None:
        """Log a statement that was executed, if it was slow."""
        if seconds >= self._limit_s:
            logger.warning("slow: %s took %.1f ms, %d rows", query.statement.name, seconds * 1000, rows)
            self._request_plan(query)

    def ended(self, query: Query) -> None:
        """Log a statement that a time limit ended."""
        logger.warning("slow: %s took longer than a time limit allows", query.statement.name)
        self._request_plan(query)

    def _request_plan(self, query: Query) -> None:
        statement = query.statement
        if not statement.plain.upper().startswith(_EXPLAINED):
            # A CALL, or a migration: PostgreSQL explains neither.
            return
        now = time.monotonic()
        with self._changed:
            if self._closed or now - self._explained_at.get(statement.name, -_EVERY_S) < _EVERY_S:
                return
            if len(self._questions) >= _WAITING:
                return
            self._explained_at[statement.name] = now
            self._questions.append(_question(statement, query.parameters))
            if self._thread is None:
                self._thread = threading.Thread(target=self._explain_all, name="atlas-slow-log", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Log no more query plans; wait for the one in progress. Idempotent."""
        with self._changed:
            self._closed = True
            self._questions.clear()
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _explain_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._questions or self._closed, _IDLE_S)
                if not self._questions:
                    self._thread = None
                    return
                question = self._questions.popleft()
            try:
                logger.warning("plan of %s:\n%s", question.name, self._explained(question))
            except Exception:  # a missing plan is no reason to fail
                logger.debug("no plan of %s", question.name, exc_info=True)

    def _explained(self, question: _Question) -> str:
        types, nothing = question.types, ["NULL"] * len(question.types)
        # Use one transaction, so that a pooler uses one connection to the server.
        with self._connect() as connection, connection.transaction():
            for command in _SETTINGS:
                connection.execute(command)
            connection.execute(_words("PREPARE atlas_slow", _listed(types), "AS", question.text))
            try:
                # Use a savepoint, so that the statement can be deallocated after a failure.
                with connection.transaction():
                    rows = connection.execute(_words("EXPLAIN EXECUTE atlas_slow", _listed(nothing))).fetchall()
            finally:
                connection.execute("DEALLOCATE atlas_slow")
        return "\n".join(line for (line,) in rows)


def _listed(words: Sequence[str]) -> str:
    return f"({', '.join(words)})" if words else ""


def _words(*parts: str) -> sql.SQL:
    # All parts come from a file of this package or are psycopg's names of types.
    return sql.SQL(" ".join(parts))


def _question(statement: Statement, parameters: Mapping[str, object]) -> _Question:
    """Return the request for a statement's query plan: with the types of its parameters, without their values."""
    numbers: dict[str, int] = {}

    def numbered(match: re.Match[str]) -> str:
        if match[1] is None:
            return "%"
        return f"${numbers.setdefault(match[1], len(numbers) + 1)}"

    text = _PARAMETER.sub(numbered, statement.plain)
    adapter: Any = Transformer()
    types = tuple(_type_of(adapter, parameters[name]) for name in numbers)
    return _Question(statement.name, text, types)


def _type_of(adapter: Any, value: object) -> str:
    if value is None:
        return "unknown"
    oid = adapter.get_dumper(value, PyFormat.AUTO).oid
    known = psycopg.adapters.types.get(oid)
    if known is None:
        return "unknown"
    return f"{known.regtype}[]" if oid == known.array_oid else str(known.regtype)

"""Slow statements: their names and times in the log, and, once a minute each, how the server goes about them.

No value ever gets there. The plan is the generic one, for any values (`$1`, `$2`): a thread of its own prepares the
statement on a connection of its own and asks for it, so that the caller neither waits for it nor sees it fail.
"""

import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from attrs import frozen
from psycopg import sql
from psycopg.adapt import PyFormat, Transformer

from atlas_sdk.dsn import scrub

if TYPE_CHECKING:
    from atlas_sdk._drive.connection_config import ConnectionConfig
    from atlas_sdk._plan import Query
    from atlas_sdk._sql import Statement

__all__ = ["SlowLog"]

logger = logging.getLogger("atlas_sdk.queries")

#: The plan of one statement is told once in so many seconds.
_EVERY_S = 60.0
#: Statements that wait for their plan; more are told without one.
_WAITING = 16
#: The thread ends after so long without a slow statement.
_IDLE_S = 5.0
_PARAMETER = re.compile(r"%(?:\((\w+)\)s|%)")
_EXPLAINED = ("SELECT", "WITH", "VALUES", "INSERT", "UPDATE", "DELETE", "MERGE")
#: Nobody waits for a plan; a table that is being changed is not worth waiting for either.
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
    """Tells which statements took longer than a limit, and their plans. Shared by all threads of a client."""

    def __init__(self, config: "ConnectionConfig", limit_s: float) -> None:
        self._config = config
        self._limit_s = limit_s
        self._told: dict[str, float] = {}
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._questions: deque[_Question] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def saw(self, query: "Query", rows: int, seconds: float) -> None:
        """Take note of a statement that was carried out."""
        if seconds >= self._limit_s:
            logger.warning("slow: %s took %.1f ms, %d rows", query.statement.name, seconds * 1000, rows)
            self._ask(query)

    def ended(self, query: "Query") -> None:
        """Take note of a statement that a time limit ended."""
        logger.warning("slow: %s took longer than a time limit allows", query.statement.name)
        self._ask(query)

    def _ask(self, query: "Query") -> None:
        statement = query.statement
        if not statement.plain.upper().startswith(_EXPLAINED):
            # A CALL, or a migration: PostgreSQL explains neither.
            return
        if os.getpid() != self._pid:
            # A forked child has none of its parent's threads.
            self._reset()
        now = time.monotonic()
        with self._changed:
            if self._closed or now - self._told.get(statement.name, -_EVERY_S) < _EVERY_S:
                return
            if len(self._questions) >= _WAITING:
                return
            self._told[statement.name] = now
            self._questions.append(_question(statement, query.parameters))
            if self._thread is None:
                self._thread = threading.Thread(target=self._explain_all, name="atlas-slow-log", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Explain nothing more; wait for what is being explained. Idempotent."""
        if os.getpid() != self._pid:
            return
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
            except Exception as exc:
                scrub(exc, self._config.dsn)
                # A plan that cannot be had is no reason to fail, here or elsewhere.
                logger.debug("no plan of %s", question.name, exc_info=True)

    def _explained(self, question: _Question) -> str:
        types, nothing = question.types, ["NULL"] * len(question.types)
        kwargs = {**self._config.kwargs, "prepare_threshold": None}
        # One transaction, so that a pooler keeps to one connection to the server.
        with psycopg.connect(self._config.ready(), **kwargs) as connection, connection.transaction():
            for command in _SETTINGS:
                connection.execute(command)
            connection.execute(_words("PREPARE atlas_slow", _listed(types), "AS", question.text))
            try:
                # A part of its own: after a failure the name is still there to be given back.
                with connection.transaction():
                    rows = connection.execute(_words("EXPLAIN EXECUTE atlas_slow", _listed(nothing))).fetchall()
            finally:
                connection.execute("DEALLOCATE atlas_slow")
        return "\n".join(line for (line,) in rows)


def _listed(words: Sequence[str]) -> str:
    return f"({', '.join(words)})" if words else ""


def _words(*parts: str) -> sql.SQL:
    # Made of a file of this package and of psycopg's names for types.
    return sql.SQL(" ".join(parts))


def _question(statement: "Statement", parameters: Mapping[str, object]) -> _Question:
    """Put a statement so that it can be explained: with the types of its parameters and without their values."""
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

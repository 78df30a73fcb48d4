"""One statement on one connection, without a cursor.

A cursor of psycopg costs more than the server takes for a small statement: it is made anew for each, as is what turns
its values to text and back, and it knows forms of queries that ours do not have. This keeps both with the connection,
and speaks to libpq through the same generator, so that Ctrl-C, cancellation and errors are as with a cursor.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, Self

from attrs import frozen
from psycopg import AsyncConnection, Connection, Error, InternalError, ProgrammingError
from psycopg.abc import Buffer, PQGen
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.generators import execute, fetch_many, send
from psycopg.pq import DiagnosticField, ExecStatus, Format
from psycopg.pq.abc import PGresult

from atlas_sdk.dsn import scrub

__all__ = ["Answer", "AsyncPooledConnection", "PooledConnection", "StatementCache"]

_PLACEHOLDER = re.compile(r"%(?:\((?P<name>\w+)\)s|(?P<percent>%))")
#: psycopg forgets all that a connection has prepared after a rollback, and so may a pooler.
_NO_SUCH_STATEMENT = b"26000"
#: What refuses a prepared statement whose columns are others since a table was changed, and is fine when made anew.
_REVALIDATES = b"RevalidateCachedQuery"
#: A server keeps prepared statements as long as the connection; psycopg keeps as many, those that were used last.
_PREPARED_MAX = 100


@frozen
class Answer:
    """The result of a statement: column names, rows, and the number of affected rows, as a cursor counts them."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    rowcount: int


class _Asked(NamedTuple):
    """A statement as it is sent."""

    #: Its text and the types of its parameters, which is what is prepared.
    key: tuple[bytes, tuple[int, ...]]
    values: Sequence[Buffer | None]
    formats: Sequence[Format] | None


class _Prepared:
    """A statement with types of parameters that this connection has seen before."""

    __slots__ = ("columns", "name")

    def __init__(self) -> None:
        #: Empty until it is prepared, which the second time does: a first one alone is not worth a round trip.
        self.name = b""
        #: They cannot change while it is prepared: the server refuses to run it then.
        self.columns: tuple[str, ...] | None = None


@cache
def _positional(text: str, encoding: str) -> tuple[bytes, tuple[str, ...], list[PyFormat]]:
    """Return a text with $1 for its first name, the names in that order, and how each is sent: as psycopg sees fit."""
    names: list[str] = []

    def numbered(found: re.Match[str]) -> str:
        name = found["name"]
        if name is None:
            return "%"
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return _PLACEHOLDER.sub(numbered, text).encode(encoding), tuple(names), [PyFormat.AUTO] * len(names)


def _last_of(results: Sequence[PGresult], encoding: str) -> PGresult:
    if not results:
        message = "got no result from the query"
        raise InternalError(message)
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            raise error_from_result(result, encoding=encoding)
        if result.status not in {ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK, ExecStatus.EMPTY_QUERY}:
            message = f"a statement cannot be answered by {ExecStatus(result.status).name}"
            raise ProgrammingError(message)
    return results[-1]


def _is_outdated(results: Sequence[PGresult]) -> bool:
    """Tell whether a prepared statement must be prepared again; it has not run then."""
    if not results:
        return False
    found = results[-1]
    return (
        found.error_field(DiagnosticField.SQLSTATE) == _NO_SUCH_STATEMENT
        or found.error_field(DiagnosticField.SOURCE_FUNCTION) == _REVALIDATES
    )


class StatementCache:
    """The prepared statements of one connection, with the adapters of its values."""

    def __init__(self, connection: Connection[Any] | AsyncConnection[Any]) -> None:
        self._pgconn = connection.pgconn
        self._transformer = Transformer(connection)
        self._encoding = connection.info.encoding
        self._prepares = connection.prepare_threshold is not None
        #: The one that was used last at the end.
        self._known: OrderedDict[tuple[bytes, tuple[int, ...]], _Prepared] = OrderedDict()
        #: Of statements that gave way to others, and are still prepared.
        self._stale: list[bytes] = []
        self._made = 0

    def execute_prepared(self, text: str, parameters: Mapping[str, object]) -> PQGen[Answer]:
        """Run one statement outside of a transaction: to be waited for as psycopg's own generators are."""
        asked = self._asked(text, parameters)
        prepared = self._seen(asked)
        results = None
        if prepared is not None and prepared.name:
            self._send(asked, prepared)
            results = yield from execute(self._pgconn)
            if _is_outdated(results):
                self._forget()
                results, prepared = None, None
        if results is None:
            if prepared is not None:
                for command in self._clearing():
                    self._pgconn.send_query(command)
                    yield from execute(self._pgconn)
                name = self._send_prepare(asked)
                _last_of((yield from execute(self._pgconn)), self._encoding)
                prepared.name = name
            self._send(asked, prepared)
            results = yield from execute(self._pgconn)
        return self._read(_last_of(results, self._encoding), prepared)

    def execute_in_transaction(
        self, begin: Sequence[bytes], end: bytes, text: str, parameters: Mapping[str, object]
    ) -> PQGen[Answer]:
        """Run one statement in a transaction of its own, in one round trip: to be waited for like `ask`.

        The transaction begins with some commands and ends with one; after an error it is open still.
        """
        asked = self._asked(text, parameters)
        prepared = self._seen(asked)
        results = yield from self._exchange(begin, end, asked, prepared)
        if prepared is not None and _is_outdated(results):
            self._forget()
            self._pgconn.send_query(b"ROLLBACK")
            yield from execute(self._pgconn)
            prepared = None
            results = yield from self._exchange(begin, end, asked, None)
        return self._read(_last_of(results, self._encoding), prepared)

    def _exchange(
        self, begin: Sequence[bytes], end: bytes, asked: _Asked, prepared: _Prepared | None
    ) -> PQGen[list[PGresult]]:
        """Return what the statement gave, or the first error."""
        preparing = None if prepared is None or prepared.name else prepared
        before = [*begin, *(() if preparing is None else self._clearing())]
        try:
            self._pgconn.enter_pipeline_mode()
            for command in before:
                self._pgconn.send_query_params(command, None)
            if preparing is not None:
                preparing.name = self._send_prepare(asked)
            self._send(asked, prepared)
            self._pgconn.send_query_params(end, None)
            self._pgconn.pipeline_sync()
            yield from send(self._pgconn)
            at = len(before) + (preparing is not None)
            results: list[PGresult] = []
            failed: list[PGresult] = []
            for number in range(at + 3):
                got = yield from fetch_many(self._pgconn)
                if number == at:
                    results = got
                if not failed and got[-1].status == ExecStatus.FATAL_ERROR:
                    failed = got
                    if preparing is not None and number < at:
                        preparing.name = b""
            self._pgconn.exit_pipeline_mode()
        except BaseException:
            # Ctrl-C between two lines, too: in the middle of a pipeline it looks idle, and would answer nobody.
            self._pgconn.finish()
            raise
        return failed or results

    def _asked(self, text: str, parameters: Mapping[str, object]) -> _Asked:
        body, names, formats = _positional(text, self._encoding)
        transformer = self._transformer
        values = transformer.dump_sequence([parameters[name] for name in names], formats)
        return _Asked((body, tuple(transformer.types or ())), values, transformer.formats)

    def _seen(self, asked: _Asked) -> _Prepared | None:
        prepared = self._known.get(asked.key)
        if prepared is not None:
            self._known.move_to_end(asked.key)
        return prepared

    def _forget(self) -> None:
        self._known.clear()
        self._stale.clear()

    def _clearing(self) -> list[bytes]:
        """Return what gives up the statements that made room for others."""
        stale, self._stale = self._stale, []
        return [b"DEALLOCATE " + name for name in stale]

    def _send(self, asked: _Asked, prepared: _Prepared | None) -> None:
        if prepared is not None:
            self._pgconn.send_query_prepared(prepared.name, asked.values, param_formats=asked.formats)
            return
        body, types = asked.key
        self._pgconn.send_query_params(body, asked.values, param_types=types, param_formats=asked.formats)
        if self._prepares:
            self._known[asked.key] = _Prepared()
            if len(self._known) > _PREPARED_MAX:
                _, oldest = self._known.popitem(last=False)
                self._stale += [oldest.name] if oldest.name else []

    def _send_prepare(self, asked: _Asked) -> bytes:
        self._made += 1
        name = b"atlas_%d" % self._made
        body, types = asked.key
        self._pgconn.send_prepare(name, body, param_types=types)
        return name

    def _read(self, result: PGresult, prepared: _Prepared | None) -> Answer:
        if result.status != ExecStatus.TUPLES_OK:
            touched = result.command_tuples
            return Answer((), [], -1 if touched is None else touched)
        columns = None if prepared is None else prepared.columns
        if columns is None:
            columns = tuple((result.fname(number) or b"").decode(self._encoding) for number in range(result.nfields))
            if prepared is not None:
                prepared.columns = columns
        self._transformer.set_pgresult(result)
        rows = self._transformer.load_rows(0, result.ntuples, tuple)
        # An idle connection is not to hold megabytes.
        self._transformer.set_pgresult(None)
        return Answer(columns, rows, result.ntuples)


class PooledConnection(Connection[Any]):
    """A connection of a pool of ours."""

    _statements: StatementCache | None = None
    #: The command that sets the search_path of a transaction; empty where the connection has it for good.
    path = b""
    #: When the pool gave it out, in seconds that only go forward.
    checked_out_at = 0.0

    @classmethod
    def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """Connect. The pool logs what this raises, so the error is left without secrets."""
        try:
            return super().connect(conninfo, **kwargs)
        except Error as exc:
            scrub(exc, conninfo)
            raise

    @property
    def statements(self) -> StatementCache:
        """The prepared statements of this connection."""
        if self._statements is None:
            self._statements = StatementCache(self)
        return self._statements

    def execute_prepared(self, text: str, parameters: Mapping[str, object]) -> Answer:
        """Run one statement outside of a transaction."""
        with self.lock:
            return self.wait(self.statements.execute_prepared(text, parameters))

    def execute_in_transaction(
        self, begin: Sequence[bytes], end: bytes, text: str, parameters: Mapping[str, object]
    ) -> Answer:
        """Run one statement in a transaction of its own that begins and ends with these commands: one round trip."""
        with self.lock:
            return self.wait(self.statements.execute_in_transaction(begin, end, text, parameters))


class AsyncPooledConnection(AsyncConnection[Any]):
    """A connection of a pool of ours, on asyncio."""

    _statements: StatementCache | None = None
    #: The command that sets the search_path of a transaction; empty where the connection has it for good.
    path = b""
    #: When the pool gave it out, in seconds that only go forward.
    checked_out_at = 0.0

    @classmethod
    async def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """Connect. The pool logs what this raises, so the error is left without secrets."""
        try:
            return await super().connect(conninfo, **kwargs)
        except Error as exc:
            scrub(exc, conninfo)
            raise

    @property
    def statements(self) -> StatementCache:
        """The prepared statements of this connection."""
        if self._statements is None:
            self._statements = StatementCache(self)
        return self._statements

    async def execute_prepared(self, text: str, parameters: Mapping[str, object]) -> Answer:
        """Run one statement outside of a transaction."""
        async with self.lock:
            return await self.wait(self.statements.execute_prepared(text, parameters))

    async def execute_in_transaction(
        self, begin: Sequence[bytes], end: bytes, text: str, parameters: Mapping[str, object]
    ) -> Answer:
        """Run one statement in a transaction of its own that begins and ends with these commands: one round trip."""
        async with self.lock:
            return await self.wait(self.statements.execute_in_transaction(begin, end, text, parameters))

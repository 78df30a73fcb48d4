"""One statement on one connection, without a cursor.

A cursor of psycopg costs more than the server takes for a small statement: it is made anew for each, as is what turns
its values to text and back, and it knows forms of queries that ours do not have. This keeps both with the connection,
and speaks to libpq through the same generator, so that Ctrl-C, cancellation and errors are as with a cursor.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from attrs import frozen
from psycopg import AsyncConnection, Connection, InternalError, ProgrammingError
from psycopg.abc import PQGen
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.generators import execute
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

__all__ = ["Answer", "AsyncLine", "Line", "Wire"]

_PLACEHOLDER = re.compile(r"%(?:\((?P<name>\w+)\)s|(?P<percent>%))")
_NO_SUCH_STATEMENT = b"26000"
#: A server keeps prepared statements as long as the connection; psycopg keeps as many.
_PREPARED_MAX = 100


@frozen
class Answer:
    """What a statement gave: column names, rows, and the number of rows touched, as a cursor counts them."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    rowcount: int


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


class Wire:
    """What one connection has prepared, and what turns its values to text and back."""

    def __init__(self, connection: Connection[Any] | AsyncConnection[Any]) -> None:
        self._pgconn = connection.pgconn
        self._transformer = Transformer(connection)
        self._encoding = connection.info.encoding
        self._prepares = connection.prepare_threshold is not None
        self._known: dict[tuple[bytes, tuple[int, ...]], _Prepared] = {}
        self._made = 0

    def ask(self, text: str, parameters: Mapping[str, object]) -> PQGen[Answer]:
        """Run one statement outside of a transaction: to be waited for as psycopg's own generators are."""
        body, names, formats = _positional(text, self._encoding)
        transformer = self._transformer
        values = transformer.dump_sequence([parameters[name] for name in names], formats)
        types = tuple(transformer.types or ())
        prepared = self._known.get((body, types)) if self._prepares else None
        results = None
        if prepared is not None and prepared.name:
            self._pgconn.send_query_prepared(prepared.name, values, param_formats=transformer.formats)
            results = yield from execute(self._pgconn)
            if results and results[-1].error_field(DiagnosticField.SQLSTATE) == _NO_SUCH_STATEMENT:
                # psycopg forgets all that a connection has prepared after a rollback, and so may a pooler.
                self._known.clear()
                results, prepared = None, None
        if results is None:
            if prepared is not None:
                yield from self._prepare(prepared, body, types)
                self._pgconn.send_query_prepared(prepared.name, values, param_formats=transformer.formats)
            else:
                self._pgconn.send_query_params(body, values, param_types=types, param_formats=transformer.formats)
                if self._prepares and len(self._known) < _PREPARED_MAX:
                    self._known[body, types] = _Prepared()
            results = yield from execute(self._pgconn)
        return self._read(_last_of(results, self._encoding), prepared)

    def _prepare(self, prepared: _Prepared, body: bytes, types: tuple[int, ...]) -> PQGen[None]:
        self._made += 1
        name = b"atlas_%d" % self._made
        self._pgconn.send_prepare(name, body, param_types=types)
        _last_of((yield from execute(self._pgconn)), self._encoding)
        prepared.name = name

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


class Line(Connection[Any]):
    """A connection of a pool of ours."""

    _wire: Wire | None = None
    #: When the pool gave it out, in seconds that only go forward.
    drawn_at = 0.0

    def ask(self, text: str, parameters: Mapping[str, object]) -> Answer:
        """Run one statement outside of a transaction."""
        with self.lock:
            wire = self._wire
            if wire is None:
                wire = self._wire = Wire(self)
            return self.wait(wire.ask(text, parameters))


class AsyncLine(AsyncConnection[Any]):
    """A connection of a pool of ours, on asyncio."""

    _wire: Wire | None = None
    #: When the pool gave it out, in seconds that only go forward.
    drawn_at = 0.0

    async def ask(self, text: str, parameters: Mapping[str, object]) -> Answer:
        """Run one statement outside of a transaction."""
        async with self.lock:
            wire = self._wire
            if wire is None:
                wire = self._wire = Wire(self)
            return await self.wait(wire.ask(text, parameters))

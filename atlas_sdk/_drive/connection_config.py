"""The configuration of connections, and the steps that both drivers share."""

import json
import logging
import select
import time
from collections.abc import Callable, Mapping
from typing import Any, LiteralString, Protocol
from weakref import WeakSet

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.adapt import Buffer, Dumper
from psycopg.pq import TransactionStatus

from atlas_sdk._drive.configure import Pooler, TimeLimits
from atlas_sdk._drive.slow_log import SlowLog
from atlas_sdk._plan import Json, Query, Result
from atlas_sdk.errors import DatabaseError, InvalidInput

__all__ = [
    "ConnectionConfig",
    "Stoppable",
    "arguments",
    "broken_transaction",
    "check_open_transaction",
    "closed_by_server",
    "closed_client",
    "columns_of",
    "ended_transaction",
    "logger",
    "not_text",
    "result_of",
]

logger = logging.getLogger("atlas_sdk.queries")


_TO_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class _JsonDumper(Dumper):
    oid = psycopg.adapters.types["jsonb"].oid

    def dump(self, obj: Json) -> Buffer | None:
        try:
            return _TO_JSON(obj.value).encode("utf-8", "backslashreplace")
        except (TypeError, ValueError) as exc:
            raise InvalidInput(f"not JSON: {exc}", field="context") from exc


psycopg.adapters.register_dumper(Json, _JsonDumper)


class Stoppable(Protocol):
    """An object that any thread can stop."""

    def stop(self) -> None:
        """End, soon. Idempotent."""
        ...


class ConnectionConfig:
    """The configuration of a client's connections."""

    def __init__(
        self,
        dsn: str,
        *,
        before_connect: Callable[[], None] | None = None,
        pool_max: int = 20,
        idle_s: float = 30.0,
        connect_timeout_s: float = 5.0,
        prepare: bool | None = None,
        query_log: bool = False,
        slow_query_s: float | None = None,
        time_limits: TimeLimits | None = None,
        retries: int = 0,
    ) -> None:
        self.dsn = dsn
        #: Called before every new connection: the embedded server is started again if it died.
        self.before_connect = before_connect
        self.query_log = query_log
        self.pool_max = pool_max
        self.idle_s = idle_s
        self.connect_timeout_s = connect_timeout_s
        #: How often a call of which nothing was kept is made again.
        self.retries = retries
        self.time_limits = time_limits or TimeLimits()
        self.slow = None if slow_query_s is None else SlowLog(self, slow_query_s)
        #: What stands between; None until the first connection was made.
        self.pooler: Pooler | None = None
        #: Whether the last connection was made with TLS.
        self.encrypted: bool | None = None
        #: None: where no pooler stands between, as they do not survive PgBouncer in transaction mode before 1.21.
        self.prepares = prepare
        #: Those who listen on connections of their own; they end with the client.
        self.listeners: WeakSet[Stoppable] = WeakSet()
        self.kwargs: dict[str, Any] = {
            "autocommit": True,
            # Where it is not said, each new connection tells (`configure_connection`).
            "prepare_threshold": 1 if prepare else None,
            "connect_timeout": max(1, round(connect_timeout_s)),
            "application_name": "atlasengine",
        }

    def ready(self) -> str:
        """Return the DSN of a server that has been asked to run."""
        if self.before_connect is not None:
            self.before_connect()
        return self.dsn

    def close(self) -> None:
        """Stop what runs beside the pool. Idempotent."""
        for listener in list(self.listeners):
            listener.stop()
        if self.slow is not None:
            self.slow.close()

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


def closed_by_server(connection: Connection[Any] | AsyncConnection[Any]) -> bool:
    """Tell whether the server closed an idle connection; its socket is readable then. No round trip."""
    poller = select.poll()
    poller.register(connection.pgconn.socket, select.POLLIN)
    return bool(poller.poll(0))


def arguments(query: Query) -> tuple[LiteralString, Mapping[str, object] | None]:
    # Without parameters the text may hold several statements, as a migration does.
    return query.statement.text, query.parameters or None


def broken_transaction() -> DatabaseError:
    """Return our error for the end of a transaction in which a statement failed and the failure was caught."""
    return DatabaseError(
        "an operation of this transaction failed, so nothing of it was kept; do it again without that one"
    )


def check_open_transaction(connection: Connection[Any] | AsyncConnection[Any]) -> None:
    """Raise InvalidInput unless what runs on a caller's connection is part of a transaction."""
    if connection.closed:
        raise InvalidInput("this connection is closed", field="connection")
    if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        raise InvalidInput(
            "this connection commits each statement by itself: use `with connection.transaction():`", field="connection"
        )


def closed_client() -> InvalidInput:
    """Return our error for the use of a client after its end."""
    return InvalidInput("this client is closed: open a new one", field="atlas")


def ended_transaction() -> InvalidInput:
    """Return our error for the use of a transaction after its `with` block: its connection is others' by then."""
    return InvalidInput(
        "this transaction has ended: use what `with atlas.transaction() as tx` gives inside of its block only",
        field="transaction",
    )


def not_text(error: UnicodeEncodeError) -> InvalidInput:
    """Return our error for a text with bytes that are not UTF-8: a column cannot hold it."""
    return InvalidInput(f"not a valid text: {error.object[:60]!r} has bytes that are not UTF-8", field="text")


def columns_of(cursor: Any) -> tuple[str, ...]:
    """Return the names of a result's columns; none for a statement without a result.

    psycopg's own `description` builds an object a column, which costs a tenth of a put.
    """
    found = cursor.pgresult
    return tuple(found.fname(number).decode() for number in range(found.nfields))


def result_of(
    config: ConnectionConfig, query: Query, cursor: Any, columns: tuple[str, ...], rows: list[Any], began: float
) -> Result:
    """Put an executed statement's answer together, and log its name and time if asked to."""
    if config.query_log:
        milliseconds = (time.perf_counter() - began) * 1000
        logger.debug("%s: %.1f ms, %d rows", query.statement.name, milliseconds, cursor.rowcount)
    if config.slow is not None:
        config.slow.saw(query, cursor.rowcount, time.perf_counter() - began)
    return Result(columns, rows, cursor.rowcount)

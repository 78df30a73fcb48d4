"""Configure every new connection: detect a pooler, set the search_path and the time limits.

A pooler such as PgBouncer gives its clients invented process ids. So there is a pooler if the server reports another
process id. In transaction mode each transaction of a client may run on another connection to the server, so a client
must leave no state there: no prepared statements before PgBouncer 1.21, no SET, no LISTEN.
"""

import socket
from contextlib import ExitStack, closing, suppress
from threading import Timer
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection, Connection

from atlas_sdk._drive.connection_config import ConnectionConfig, Pooler
from atlas_sdk._drive.search_path import OWN_PATH, set_local
from atlas_sdk.errors import InvalidInput

if TYPE_CHECKING:
    from atlas_sdk._drive.pooled_connection import AsyncPooledConnection, PooledConnection

__all__ = ["BACKEND_PID", "configure_connection", "configure_connection_async", "is_pooled", "probe"]

BACKEND_PID = "SELECT pg_backend_pid()"
_SEARCH_PATH = "search_path"
_SET = "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS given (name, value)"
#: The number of comparisons in `_mode`: while other clients are busy, a client may get the same server connection twice
#: by chance.
_LOOKS = 8


def is_pooled(connection: Connection[Any] | AsyncConnection[Any], answer: tuple[Any, ...] | None) -> bool:
    """Return whether there is a pooler; `answer` begins with the server's answer to `BACKEND_PID`."""
    return answer is None or answer[0] != connection.info.backend_pid


def _refuse(config: ConnectionConfig) -> None:
    names = ", ".join(config.time_limits.settings())
    if names:
        raise InvalidInput(
            f"behind a pooler in transaction mode a client cannot set {names}, which would stay on a connection that "
            "others use next: leave the option out and have the server set it: ALTER ROLE … SET statement_timeout = …",
            field="statement_timeout_s",
        )


def _settings(
    config: ConnectionConfig, connection: "PooledConnection | AsyncPooledConnection", answer: Any
) -> dict[str, str]:
    """Record whether the connection uses TLS and a pooler; return the settings for the connection."""
    config.encrypted = connection.pgconn.ssl_in_use
    _, before, path = answer
    paths = {} if before == path else {_SEARCH_PATH: path}
    if is_pooled(connection, answer):
        if config.pooler != "session":
            # Refuse here too: the pooler may have been added after the client was opened.
            _refuse(config)
            connection.path = set_local(path) if paths else b""
            paths = {}
        if config.prepares is None:
            connection.prepare_threshold = None
    elif config.prepares is None:
        connection.prepare_threshold = 1
    return paths | config.time_limits.settings()


def configure_connection(config: ConnectionConfig, connection: "PooledConnection") -> None:
    """Set up a new connection. Raises InvalidInput when a pooler does not support an option."""
    answer = connection.execute(OWN_PATH, prepare=False).fetchone()
    if wanted := _settings(config, connection, answer):
        connection.execute(_SET, (list(wanted), list(wanted.values())), prepare=False)


async def configure_connection_async(config: ConnectionConfig, connection: "AsyncPooledConnection") -> None:
    """Set up a new connection. Raises InvalidInput when a pooler does not support an option."""
    answer = await (await connection.execute(OWN_PATH, prepare=False)).fetchone()
    if wanted := _settings(config, connection, answer):
        await connection.execute(_SET, (list(wanted), list(wanted.values())), prepare=False)


def probe(config: ConnectionConfig) -> None:
    """Prove that the server can be reached, and detect a pooler. Raises psycopg's errors, InvalidInput."""
    # Close without a commit: `_mode` may have shut a connection down in the middle of its transaction.
    with closing(config.connect()) as first:
        answer = first.execute(BACKEND_PID).fetchone()
        config.encrypted = first.pgconn.ssl_in_use
        if not is_pooled(first, answer):
            config.pooler = "none"
            return
        with closing(config.connect()) as second:
            config.pooler = _mode(first, second, answer, patience_s=config.connect_timeout_s)
    if config.pooler == "statement":
        raise InvalidInput(
            "the pooler is in statement mode, which refuses transactions: set pool_mode = transaction there",
            field="dsn",
        )
    if config.pooler == "transaction":
        _refuse(config)


def _mode(first: Connection[Any], second: Connection[Any], answer: Any, *, patience_s: float) -> Pooler:
    """Return the pooler's mode; `answer` is the process id that the first connection got.

    In transaction mode the second client gets the server connection that the first client has just used, or the first
    client gets another server connection next time. In session mode a server connection belongs to one client until
    the client leaves.
    """
    #: The mode to report if the current statement gets no answer in time. The timer then adds it to `verdict`.
    meaning: Pooler = "session"
    verdict: list[Pooler] = []
    with ExitStack() as sockets:
        # Duplicate the sockets, because libpq may close its own meanwhile. Do not send a cancel request, which would
        # wait in the pooler too.
        waiting = [
            sockets.enter_context(socket.fromfd(each.pgconn.socket, socket.AF_UNSPEC, socket.SOCK_STREAM))
            for each in (second, first)
        ]

        def give_up() -> None:
            verdict.append(meaning)
            for each in waiting:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

        # Limit the wait: when all server connections are taken, the pooler makes one of the two clients wait.
        patience = Timer(patience_s, give_up)
        patience.daemon = True
        patience.start()
        try:
            for _ in range(_LOOKS):
                meaning = "session"
                try:
                    second.execute("BEGIN")
                    held = second.execute(BACKEND_PID).fetchone()
                except psycopg.Error:
                    # Statement mode refuses transactions.
                    return verdict[0] if verdict else "statement"
                if verdict:
                    # The timer shut the first client down, so its server connection went to the second one.
                    return verdict[0]
                meaning = "transaction"
                try:
                    if held == answer or first.execute(BACKEND_PID).fetchone() != answer:
                        return "transaction"
                    second.execute("ROLLBACK")
                except psycopg.Error:
                    return verdict[0] if verdict else "transaction"
        finally:
            patience.cancel()
            patience.join()
    return "session"

"""Configure every new connection: detect a pooler, set the search_path and the time limits.

A pooler such as PgBouncer gives its clients a process id of its own making, so it is there when the server names
another one. In transaction mode each transaction of a client may run on another connection to the server, so nothing
may be left on one: no prepared statements before PgBouncer 1.21, no SET, no LISTEN.
"""

import socket
from contextlib import ExitStack, closing, suppress
from threading import Timer
from typing import TYPE_CHECKING, Any, Literal

import psycopg
from attrs import frozen
from psycopg import AsyncConnection, Connection

from atlas_sdk._drive.search_path import OWN_PATH, set_local
from atlas_sdk.errors import InvalidInput

if TYPE_CHECKING:
    from atlas_sdk._drive.connection_config import ConnectionConfig
    from atlas_sdk._drive.statement_cache import AsyncPooledConnection, PooledConnection

__all__ = ["Pooler", "TimeLimits", "configure_connection", "configure_connection_async", "pooled", "probe"]

#: What stands between this client and the server.
Pooler = Literal["none", "session", "transaction", "statement"]

_ASK = "SELECT pg_backend_pid()"
_SEARCH_PATH = "search_path"
_SET = "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS given (name, value)"
#: With other clients about, one look may find the same connection by chance.
_LOOKS = 8


@frozen(kw_only=True)
class TimeLimits:
    """The time limits that the server enforces, in seconds; None keeps the server's own setting."""

    statement_s: float | None = None
    lock_s: float | None = None
    idle_in_transaction_s: float | None = None

    def __attrs_post_init__(self) -> None:
        for name, value in (
            ("statement_timeout_s", self.statement_s),
            ("lock_timeout_s", self.lock_s),
            ("idle_in_transaction_timeout_s", self.idle_in_transaction_s),
        ):
            if value is not None and not 0.001 <= value <= 2_147_483:  # noqa: PLR2004  # a millisecond to int4 of them
                raise InvalidInput(f"{name} is at least 0.001 and at most 2147483 seconds, not {value}", field=name)

    def settings(self) -> dict[str, str]:
        """Return the server's settings, without those that are not given."""
        given = {
            "statement_timeout": self.statement_s,
            "lock_timeout": self.lock_s,
            "idle_in_transaction_session_timeout": self.idle_in_transaction_s,
        }
        return {name: str(round(seconds * 1000)) for name, seconds in given.items() if seconds is not None}


def pooled(connection: Connection[Any] | AsyncConnection[Any], answer: tuple[Any, ...] | None) -> bool:
    """Tell whether a pooler stands between; `answer` is the server's answer to `_ASK`."""
    return answer is None or answer[0] != connection.info.backend_pid


def _refuse(config: "ConnectionConfig") -> None:
    names = ", ".join(config.time_limits.settings())
    if names:
        raise InvalidInput(
            f"behind a pooler in transaction mode a client cannot set {names}, which would stay on a connection that "
            "others use next: leave the option out and have the server set it: ALTER ROLE … SET statement_timeout = …",
            field="statement_timeout_s",
        )


def _settings(
    config: "ConnectionConfig", connection: "PooledConnection | AsyncPooledConnection", answer: Any
) -> dict[str, str]:
    """Take note of who answers; return what to set."""
    config.encrypted = connection.pgconn.ssl_in_use
    _, before, path = answer
    paths = {} if before == path else {_SEARCH_PATH: path}
    if pooled(connection, answer):
        if config.pooler != "session":
            # Also where it came between after the client was opened.
            _refuse(config)
            connection.path = set_local(path) if paths else b""
            paths = {}
        if config.prepares is None:
            connection.prepare_threshold = None
    elif config.prepares is None:
        connection.prepare_threshold = 1
    return paths | config.time_limits.settings()


def configure_connection(config: "ConnectionConfig", connection: "PooledConnection") -> None:
    """Get a new connection ready. Raises InvalidInput when a pooler cannot do what the options ask for."""
    answer = connection.execute(OWN_PATH, prepare=False).fetchone()
    if wanted := _settings(config, connection, answer):
        connection.execute(_SET, (list(wanted), list(wanted.values())), prepare=False)


async def configure_connection_async(config: "ConnectionConfig", connection: "AsyncPooledConnection") -> None:
    """Get a new connection ready. Raises InvalidInput when a pooler cannot do what the options ask for."""
    answer = await (await connection.execute(OWN_PATH, prepare=False)).fetchone()
    if wanted := _settings(config, connection, answer):
        await connection.execute(_SET, (list(wanted), list(wanted.values())), prepare=False)


def probe(config: "ConnectionConfig") -> None:
    """Prove that a connection can be had, and learn what stands between. Raises what a connection raises."""
    kwargs = {**config.kwargs, "prepare_threshold": None}
    # Closed, and not committed: who is given up on has hung up, maybe in the middle of its transaction.
    with closing(psycopg.connect(config.ready(), **kwargs)) as first:
        answer = first.execute(_ASK).fetchone()
        config.encrypted = first.pgconn.ssl_in_use
        if not pooled(first, answer):
            config.pooler = "none"
            return
        with closing(psycopg.connect(config.ready(), **kwargs)) as second:
            config.pooler = _mode(first, second, answer, patience_s=config.connect_timeout_s)
    if config.pooler == "statement":
        raise InvalidInput(
            "the pooler is in statement mode, which refuses transactions: set pool_mode = transaction there",
            field="dsn",
        )
    if config.pooler == "transaction":
        _refuse(config)


def _mode(first: Connection[Any], second: Connection[Any], answer: Any, *, patience_s: float) -> Pooler:
    """Return a pooler's mode; `answer` is what the first connection was told.

    In transaction mode the second client gets the connection to the server that the first one has just used, or the
    first one comes back to another one; in session mode it is the first one's until it leaves.
    """
    #: What it means when whoever waits now waits in vain, and, once that is so, what it meant.
    meaning: Pooler = "session"
    verdict: list[Pooler] = []
    with ExitStack() as lines:
        # Of their own, which libpq does not close meanwhile. A cancellation would wait in the pooler as well.
        waiting = [
            lines.enter_context(socket.fromfd(each.pgconn.socket, socket.AF_UNSPEC, socket.SOCK_STREAM))
            for each in (second, first)
        ]

        def give_up() -> None:
            verdict.append(meaning)
            for line in waiting:
                with suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)

        # Where all connections to the server are taken the pooler lets one of the two wait.
        patience = Timer(patience_s, give_up)
        patience.daemon = True
        patience.start()
        try:
            for _ in range(_LOOKS):
                meaning = "session"
                try:
                    second.execute("BEGIN")
                    held = second.execute(_ASK).fetchone()
                except psycopg.Error:
                    # Statement mode refuses transactions.
                    return verdict[0] if verdict else "statement"
                if verdict:
                    # Given up on, the first one has left its connection to the second one.
                    return verdict[0]
                meaning = "transaction"
                try:
                    if held == answer or first.execute(_ASK).fetchone() != answer:
                        return "transaction"
                    second.execute("ROLLBACK")
                except psycopg.Error:
                    return verdict[0] if verdict else "transaction"
        finally:
            patience.cancel()
            patience.join()
    return "session"

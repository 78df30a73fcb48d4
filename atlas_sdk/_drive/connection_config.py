"""The configuration of a client's connections."""

import logging
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol
from weakref import WeakSet

import psycopg
from attrs import frozen

from atlas_sdk._drive.slow_log import SlowLog
from atlas_sdk._plan import Query
from atlas_sdk.dsn import scrub
from atlas_sdk.errors import InvalidInput

__all__ = ["ConnectionConfig", "Pooler", "Stoppable", "TimeLimits", "logger"]

logger = logging.getLogger("atlas_sdk.queries")

#: The mode of the pooler between this client and the server.
Pooler = Literal["none", "session", "transaction", "statement"]


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
            if value is not None and not 0.001 <= value <= 2_147_483:  # noqa: PLR2004  # 1 ms, and the largest int4 in ms
                raise InvalidInput(f"{name} is at least 0.001 and at most 2147483 seconds, not {value}", field=name)

    def settings(self) -> dict[str, str]:
        """Return the limits that are given, in milliseconds, by the names of the server's settings."""
        given = {
            "statement_timeout": self.statement_s,
            "lock_timeout": self.lock_s,
            "idle_in_transaction_session_timeout": self.idle_in_transaction_s,
        }
        return {name: str(round(seconds * 1000)) for name, seconds in given.items() if seconds is not None}


class Stoppable(Protocol):
    """An object that any thread can stop."""

    def stop(self) -> None:
        """Ask the object to end soon. Idempotent."""
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
        #: The client calls this before every new connection, to start an embedded server again if it died.
        self.before_connect = before_connect
        self.query_log = query_log
        self.pool_max = pool_max
        self.idle_s = idle_s
        self.connect_timeout_s = connect_timeout_s
        #: The most repetitions of a failed call that changed nothing.
        self.retries = retries
        self.time_limits = time_limits or TimeLimits()
        self.slow = None if slow_query_s is None else SlowLog(self.connect, slow_query_s)
        #: The mode of the pooler; None until the first connection was made.
        self.pooler: Pooler | None = None
        #: True if the last connection was made with TLS.
        self.encrypted: bool | None = None
        #: None prepares statements unless there is a pooler: PgBouncer before 1.21 loses them in transaction mode.
        self.prepares = prepare
        #: The open listeners. They have connections of their own, and the client stops them when it is closed.
        self.listeners: WeakSet[Stoppable] = WeakSet()
        self.kwargs: dict[str, Any] = {
            "autocommit": True,
            # Without the option, `configure_connection` decides for each new connection.
            "prepare_threshold": 1 if prepare else None,
            "connect_timeout": max(1, round(connect_timeout_s)),
            "application_name": "atlasengine",
        }

    def ready(self) -> str:
        """Make sure that an embedded server runs; return the DSN."""
        if self.before_connect is not None:
            self.before_connect()
        return self.dsn

    def connect(self) -> psycopg.Connection[Any]:
        """Open a connection beside the pool, without prepared statements. An error holds no secrets."""
        try:
            return psycopg.connect(self.ready(), **{**self.kwargs, "prepare_threshold": None})
        except psycopg.Error as exc:
            scrub(exc, self.dsn)
            raise

    def log(self, query: Query, rows: int, began: float) -> None:
        """Log the name, the time and the row count of a statement, if the client has such a log."""
        if self.query_log:
            logger.debug("%s: %.1f ms, %d rows", query.statement.name, (time.perf_counter() - began) * 1000, rows)
        if self.slow is not None:
            self.slow.executed(query, rows, time.perf_counter() - began)

    def close(self) -> None:
        """Stop the listeners and the thread of the slow log. Idempotent."""
        for listener in list(self.listeners):
            listener.stop()
        if self.slow is not None:
            self.slow.close()

    def pool_options(self) -> dict[str, Any]:
        """Return the options that both pools get."""
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

"""Choose the error for a failed run of a plan, and decide whether its call may be repeated.

The rule: a call may be repeated when it certainly changed nothing. It changed nothing when no earlier step was
committed, and the step that failed was undone:

* a statement that only reads changes nothing, however it ended;
* the server rolls back a transaction whose COMMIT was never sent, also when the connection is lost;
* the server reports that it rolled back: a serialization failure (40001), a deadlock (40P01), and, for a statement
  outside of a transaction, 57P01: the server answers a statement with 57P01 only before its commit, never after.

A write whose answer was lost may have been committed or not: the error says so, and nothing is repeated.
"""

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.pq import TransactionStatus
from psycopg_pool import PoolTimeout

from atlas_sdk._plan import Begin, Commit, Effect, Query, Rollback
from atlas_sdk._translate import translate
from atlas_sdk.dsn import place
from atlas_sdk.errors import (
    AtlasError,
    DatabaseError,
    DatabaseUnreachable,
    InvalidInput,
    NotPermitted,
    TimedOut,
    TransactionConflict,
)

if TYPE_CHECKING:
    from atlas_sdk._drive.connection_config import ConnectionConfig
    from atlas_sdk._drive.scope import Scope

__all__ = [
    "broken_transaction",
    "check_open_transaction",
    "closed_client",
    "ended_transaction",
    "failure",
    "forked_transaction",
    "lost_commit",
    "no_connection",
    "not_text",
]

#: The server ends the connection: an administrator's command, a restart.
_ENDED_BY_SERVER = "57P01"


def failure(error: psycopg.Error, config: "ConnectionConfig", scope: "Scope", effect: Effect) -> AtlasError:
    """Return the error of a plan for the error of one of its effects."""
    found = translate(error, config.dsn)
    if isinstance(found, TimedOut) and isinstance(effect, Query) and config.slow is not None:
        config.slow.ended(effect)
    if isinstance(found, NotPermitted) and scope.context.tenant is not None:
        mine = "a client made by `as_user` does what is its user's own; this is the platform's, with the whole client"
        found.args = (f"{mine} ({error.diag.message_primary})",)
    if scope.transaction is not None or not isinstance(found, (DatabaseUnreachable, TransactionConflict)):
        return found
    writes = scope.writes
    if scope.depth > isinstance(effect, Commit):
        undone = True
    elif isinstance(effect, Query):
        # `scope.writes` already counts this statement.
        writes -= not effect.statement.reads
        # Under row-level security our own COMMIT was sent together with the statement.
        ended = error.sqlstate == _ENDED_BY_SERVER and scope.context.tenant is None
        # A procedure may have committed a part of its work.
        undone = effect.statement.reads or (
            not effect.statement.commits and (ended or isinstance(found, TransactionConflict))
        )
    else:
        undone = isinstance(effect, Begin | Rollback) or isinstance(found, TransactionConflict)
    found.repeatable = undone and not writes
    if not undone:
        _say_unknown(found)
    return found


def lost_commit(error: psycopg.Error, config: "ConnectionConfig") -> AtlasError:
    """Return the error for a failed COMMIT, after which the transaction may be committed or not."""
    found = translate(error, config.dsn)
    _say_unknown(found)
    return found


def _say_unknown(error: AtlasError) -> None:
    if isinstance(error, DatabaseUnreachable):
        error.args = (f"{error}; the answer was lost, so whether it was done is unknown: look before doing it again",)


def no_connection(error: psycopg.Error, config: "ConnectionConfig", in_use: int) -> AtlasError:
    """Return the error for a pool that gave no connection, although the server can be reached."""
    if not isinstance(error, PoolTimeout):
        return translate(error, config.dsn)
    return DatabaseUnreachable(
        f"no connection to {place(config.dsn)} came free within {config.connect_timeout_s:g} s: {in_use} of at most "
        f"{config.pool_max} (pool_max) are in use; raise pool_max, or end transactions sooner"
    )


def broken_transaction() -> DatabaseError:
    """Return the error for committing a transaction in which a statement failed and the caller caught the error."""
    return DatabaseError(
        "an operation of this transaction failed, so nothing of it was kept; do it again without that one"
    )


def check_open_transaction(connection: Connection[Any] | AsyncConnection[Any]) -> None:
    """Raise InvalidInput unless a caller's connection is in a transaction, or its next statement starts one."""
    if connection.closed:
        raise InvalidInput("this connection is closed", field="connection")
    if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        raise InvalidInput(
            "this connection commits each statement by itself: use `with connection.transaction():`", field="connection"
        )


def closed_client() -> InvalidInput:
    """Return the error for the use of a closed client."""
    return InvalidInput("this client is closed: open a new one", field="atlas")


def forked_transaction() -> InvalidInput:
    """Return the error for the use of a transaction in a forked child: its connection is the parent's."""
    return InvalidInput("a transaction cannot be used in a forked child", field="transaction")


def ended_transaction() -> InvalidInput:
    """Return the error for the use of a transaction after its `with` block: its connection may serve others by then."""
    return InvalidInput(
        "this transaction has ended: use what `with atlas.transaction() as tx` gives inside of its block only",
        field="transaction",
    )


def not_text(error: UnicodeEncodeError) -> InvalidInput:
    """Return the error for a text with bytes that are not UTF-8, which no column can hold."""
    return InvalidInput(f"not a valid text: {error.object[:60]!r} has bytes that are not UTF-8", field="text")

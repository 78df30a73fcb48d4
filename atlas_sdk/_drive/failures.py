"""Translate a failed run of a plan: our error, and whether the call may be repeated.

The rule: a call may be made again when it is certain that nothing of it was kept. That is so when nothing that it did
before was kept, and what failed was undone, too:

* a statement that only reads keeps nothing, however it ended;
* a transaction whose COMMIT was never sent is rolled back by the server, also when the connection is lost;
* the server said that it undid it: a serialization failure (40001), a deadlock (40P01), and, for a statement that
  commits by itself, 57P01: with that the server answers a statement only before it commits, never after.

A write whose answer was lost may have been kept or not: then the error says so, and nothing is repeated.
"""

from typing import TYPE_CHECKING

import psycopg

from atlas_sdk._plan import Begin, Commit, Effect, Query, Rollback
from atlas_sdk._translate import translate
from atlas_sdk.errors import AtlasError, DatabaseUnreachable, NotPermitted, TimedOut, TransactionConflict

if TYPE_CHECKING:
    from atlas_sdk._drive.connection_config import ConnectionConfig
    from atlas_sdk._drive.scope import Scope

__all__ = ["failure", "lost_commit"]

#: The server ends the connection: an administrator's command, a restart.
_ENDED_BY_SERVER = "57P01"


def failure(error: psycopg.Error, config: "ConnectionConfig", scope: "Scope", effect: Effect) -> AtlasError:
    """Return our error for what an effect of a plan failed with."""
    found = translate(error, config.dsn)
    if isinstance(found, TimedOut) and isinstance(effect, Query) and config.slow is not None:
        config.slow.ended(effect)
    if isinstance(found, NotPermitted) and scope.context.tenant is not None:
        mine = "a client made by `as_user` does what is its user's own; this is the platform's, with the whole client"
        found.args = (f"{mine} ({error.diag.message_primary})",)
    if scope.nested or not isinstance(found, (DatabaseUnreachable, TransactionConflict)):
        return found
    writes = scope.writes
    if scope.depth > isinstance(effect, Commit):
        undone = True
    elif isinstance(effect, Query):
        # It is counted already.
        writes -= not effect.statement.reads
        # Behind a tenant's wall a COMMIT of ours was sent with it.
        ended = error.sqlstate == _ENDED_BY_SERVER and scope.context.tenant is None
        # A procedure may have committed part of what it did.
        is_call = effect.statement.plain.upper().startswith("CALL")
        undone = effect.statement.reads or (not is_call and (ended or isinstance(found, TransactionConflict)))
    else:
        undone = isinstance(effect, Begin | Rollback) or isinstance(found, TransactionConflict)
    found.repeatable = undone and not writes
    if not undone:
        _say_unknown(found)
    return found


def lost_commit(error: psycopg.Error, config: "ConnectionConfig") -> AtlasError:
    """Return our error for what the COMMIT of a caller's transaction failed with."""
    found = translate(error, config.dsn)
    _say_unknown(found)
    return found


def _say_unknown(error: AtlasError) -> None:
    if isinstance(error, DatabaseUnreachable):
        error.args = (f"{error}; the answer was lost, so whether it was done is unknown: look before doing it again",)

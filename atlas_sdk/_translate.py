"""From psycopg's errors to ours, by SQLSTATE only: on Citus names of constraints carry shard numbers."""

import json
import re

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import PoolTimeout, TooManyRequests

from atlas_sdk.errors import (
    AtlasError,
    AuthenticationFailed,
    DatabaseError,
    DatabaseUnreachable,
    IllegalTransition,
    InvalidInput,
    NotFound,
    SchemaMismatch,
    StorageFull,
    TransactionConflict,
)

__all__ = ["masked", "translate"]

#: What the trigger `refuse_illegal_transition` raises (`sql/migrations/0011_lifecycles.sql`).
_ILLEGAL_TRANSITION = "23T01"
_SECRETS = ("password", "sslpassword", "passfile")


def masked(dsn: str) -> str:
    """Return where a DSN points, without secrets: "ada@db.example:5432/atlas"."""
    try:
        parts = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if key not in _SECRETS}
    except psycopg.Error:
        return "the given address"
    host = parts.get("host") or "local socket"
    port = f":{parts['port']}" if "port" in parts else ""
    user = f"{parts['user']}@" if "user" in parts else ""
    return f"{user}{host}{port}/{parts.get('dbname', '')}"


def _is_malformed(dsn: str) -> bool:
    try:
        conninfo_to_dict(dsn)
    except psycopg.Error:
        return True
    return False


def _sentence(error: psycopg.Error) -> str:
    """Return the server's own words in one line, without anything that looks like a secret."""
    primary = error.diag.message_primary or str(error) or type(error).__name__
    return re.sub(r"password=\S+", "password=…", " ".join(primary.split()))


def _unreachable(error: psycopg.Error, dsn: str) -> AtlasError:
    text = _sentence(error)
    place = masked(dsn)
    if "authentication failed" in text or "no password supplied" in text or "pg_hba.conf" in text:
        return AuthenticationFailed(f"{place} does not accept this user or password: check ATLAS_DATABASE_URL or --dsn")
    if re.search(r'database "[^"]*" does not exist', text):
        return DatabaseUnreachable(f"{place}: that database does not exist: create it, or check the name in the DSN")
    reason = text.rsplit("failed: ", 1)[-1].removeprefix("FATAL: ").partition(" Is the server running")[0].strip()
    return DatabaseUnreachable(f"cannot reach PostgreSQL at {place}: {reason}; is the server running?")


def translate(error: psycopg.Error, dsn: str) -> AtlasError:
    """Return our error for one of psycopg's; raise it `from` the original."""
    state = error.sqlstate
    if isinstance(error, (PoolTimeout, TooManyRequests)):
        return DatabaseUnreachable(
            f"no connection to {masked(dsn)} came free in time; is the server overloaded or down?"
        )
    if state is None:
        if isinstance(error, psycopg.OperationalError):
            return _unreachable(error, dsn)
        if _is_malformed(dsn):
            # libpq's own words quote parts of the DSN, and one of them may be the password.
            return InvalidInput("the DSN cannot be read: write postgresql://user@host:5432/database", field="dsn")
        if isinstance(error, psycopg.DataError):
            return InvalidInput(f"a value that PostgreSQL cannot hold: {_sentence(error)}", field="value")
        return DatabaseError(_sentence(error))
    return _by_state(error, state, dsn)


def _by_state(error: psycopg.Error, state: str, dsn: str) -> AtlasError:
    if state.startswith("08") or state in {"57P01", "57P02", "57P03", "53300", "3D000"}:
        return _unreachable(error, dsn)
    if state.startswith("28"):
        return AuthenticationFailed(
            f"{masked(dsn)} does not accept this user or password: check ATLAS_DATABASE_URL or --dsn"
        )
    if state == "53100":
        return StorageFull("the database server's disk is full; free some space and repeat", sqlstate=state)
    if state in {"40001", "40P01", "55P03"}:
        return TransactionConflict("another transaction was in the way, so nothing was kept: repeat it", sqlstate=state)
    if state == "42P01":
        return SchemaMismatch("the database has no AtlasEngine schema: run `atlasctl db init`", found=None, wanted=0)
    if state == "23503":
        return NotFound(
            "what this belongs to does not exist (any more)", kind="parent", name=error.diag.table_name or ""
        )
    if state == _ILLEGAL_TRANSITION:
        facts = json.loads(error.diag.message_detail or "{}")
        return IllegalTransition(
            kind=facts.get("kind", "row"),
            name=facts.get("id", "?"),
            from_status=facts.get("from", "?"),
            to_status=facts.get("to", "?"),
        )
    if state in {"23514", "22001", "22003", "22021", "22023", "22P02", "22P05"}:
        return InvalidInput(
            f"the database refused a value: {_sentence(error)}", field=error.diag.column_name or "value"
        )
    return DatabaseError(f"PostgreSQL says: {_sentence(error)} (SQLSTATE {state})", sqlstate=state)

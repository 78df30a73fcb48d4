"""Translate psycopg's errors to ours, by SQLSTATE only: on Citus, names of constraints contain shard numbers."""

import json
import re
from typing import Any

import psycopg

from atlas_sdk.dsn import place, scrub, scrubbed
from atlas_sdk.errors import (
    AtlasError,
    AuthenticationFailed,
    DatabaseError,
    DatabaseUnreachable,
    EncryptionFailed,
    IllegalTransition,
    InvalidInput,
    NotFound,
    NotPermitted,
    QuotaExceeded,
    SchemaMismatch,
    StorageFull,
    TimedOut,
    TransactionConflict,
)

__all__ = ["translate"]

#: The SQLSTATE of the trigger `refuse_illegal_transition` (`sql/migrations/0001_accounts.sql`).
_ILLEGAL_TRANSITION = "23T01"
#: The SQLSTATE of the trigger `refuse_over_limit` (`sql/migrations/0001_accounts.sql`).
_OVER_LIMIT = "23T02"
#: The SQLSTATE invalid_catalog_name.
_NO_DATABASE = "3D000"
#: The time limit that ended a statement or its transaction, by SQLSTATE.
_LIMITS = {"57014": "statement", "55P03": "lock", "25P03": "idle", "25P04": "transaction"}
_TIMED_OUT = {
    "statement": "the statement took longer than statement_timeout allows, or it was cancelled on the server",
    "lock": "another transaction held a lock for longer than lock_timeout allows",
    "idle": "nothing happened in the transaction for longer than idle_in_transaction_session_timeout allows",
    "transaction": "the transaction took longer than transaction_timeout allows",
}
#: Messages for a connection lost during TLS or its handshake: libpq 15 to 18, with OpenSSL 1.1 and 3.
_LOST = re.compile(r"SSL connection has been closed unexpectedly|SSL SYSCALL error|SSL error: unexpected eof")


def _sentence(error: psycopg.Error) -> str:
    """Return the server's message in one line."""
    return " ".join((error.diag.message_primary or str(error) or type(error).__name__).split())


def _encryption(text: str) -> str | None:
    """Return the problem with TLS, if the message of libpq is about TLS."""
    if "does not support SSL" in text:
        return "the server offers no TLS, and sslmode asks for it: turn `ssl` on at the server"
    if re.search(r"no pg_hba\.conf entry.*no encryption", text):
        return "the server refuses this user without TLS, or at all: add sslmode=verify-full"
    if "does not match host name" in text:
        return "the server's certificate is for another host name: connect by the name that is in it"
    if "certificate verify failed" in text or "certificate signed by" in text:
        return "the server's certificate does not verify: name the certificate of its authority in sslrootcert"
    if "root certificate file" in text:
        return "there is no certificate to verify the server's with: name its authority's in sslrootcert"
    # A lost connection is no problem of TLS: the server may have crashed.
    if _LOST.search(text) is None and re.search(r"\b(SSL|TLS) error|could not initiate GSSAPI", text):
        return "TLS could not be agreed upon: " + text.rsplit("failed: ", 1)[-1]
    return None


def _unreachable(error: psycopg.Error, dsn: str) -> AtlasError:
    text = scrubbed(_sentence(error), dsn)
    where = place(dsn)
    if (unsafe := _encryption(text)) is not None:
        return EncryptionFailed(f"no safe connection to {where}: {unsafe}")
    if "authentication failed" in text or "no password supplied" in text or "pg_hba.conf" in text:
        return AuthenticationFailed(f"{where} does not accept this user or password: check both")
    if re.search(r'database "[^"]*" does not exist', text):
        return DatabaseUnreachable(
            f"{where}: that database does not exist: create it, or check its name", sqlstate=_NO_DATABASE
        )
    reason = text.rsplit("failed: ", 1)[-1].removeprefix("FATAL: ").partition(" Is the server running")[0].strip()
    return DatabaseUnreachable(f"cannot reach PostgreSQL at {where}: {reason}; is the server running?")


def translate(error: psycopg.Error, dsn: str) -> AtlasError:
    """Return our error for psycopg's error, and remove secrets from the latter. The caller raises ours `from` it."""
    scrub(error, dsn)
    state = error.sqlstate
    if state is None:
        if isinstance(error, psycopg.OperationalError):
            return _unreachable(error, dsn)
        if isinstance(error, psycopg.DataError):
            return InvalidInput(f"a value that PostgreSQL cannot hold: {_sentence(error)}", field="value")
        return DatabaseError(_sentence(error))
    return _by_state(error, state, dsn)


def _passing(state: str) -> DatabaseError | None:
    """Return our error for a condition that may pass, and None for other conditions."""
    if state == "53100":
        return StorageFull("the database server's disk is full; free some space and repeat", sqlstate=state)
    if state in {"40001", "40P01"}:
        return TransactionConflict("another transaction was in the way, so nothing was kept: repeat it", sqlstate=state)
    if state in _LIMITS:
        return TimedOut(f"{_TIMED_OUT[_LIMITS[state]]}; nothing of it was kept", limit=_LIMITS[state], sqlstate=state)
    return None


def _by_trigger(state: str, facts: dict[str, Any]) -> AtlasError:
    """Return our error for the refusal of one of our triggers, from the JSON in its DETAIL."""
    if state == _OVER_LIMIT:
        return QuotaExceeded(**facts)
    return IllegalTransition(
        kind=facts.get("kind", "row"),
        name=facts.get("id", "?"),
        from_status=facts.get("from", "?"),
        to_status=facts.get("to", "?"),
    )


def _by_state(error: psycopg.Error, state: str, dsn: str) -> AtlasError:
    if state.startswith("08") or state in {"57P01", "57P02", "57P03", "53300", "3D000"}:
        return _unreachable(error, dsn)
    if state.startswith("28"):
        return AuthenticationFailed(f"{place(dsn)} does not accept this user or password: check both")
    if (passing := _passing(state)) is not None:
        return passing
    if state == "42501":
        return NotPermitted(f"the database does not permit it to this login: {_sentence(error)}")
    if state == "42P01":
        return SchemaMismatch(
            "the database has no AtlasEngine schema: the option migrate=True makes it",
            found=None,
            wanted=0,
            migratable=True,
        )
    if state == "23503":
        return NotFound(
            "what this belongs to does not exist (any more)", kind="parent", name=error.diag.table_name or ""
        )
    if state in {_ILLEGAL_TRANSITION, _OVER_LIMIT}:
        return _by_trigger(state, json.loads(error.diag.message_detail or "{}"))
    if state == "22P02" and "for type uuid" in _sentence(error):
        return InvalidInput(f"an id must be a UUID, got {_sentence(error).rpartition(': ')[2]}", field="id")
    if state in {"23514", "22001", "22003", "22021", "22023", "22P02", "22P05"}:
        return InvalidInput(
            f"the database refused a value: {_sentence(error)}", field=error.diag.column_name or "value"
        )
    return DatabaseError(f"PostgreSQL says: {_sentence(error)} (SQLSTATE {state})", sqlstate=state)

"""The search_path of every statement: our own schema, then temporary tables.

PostgreSQL looks for tables, views and types among the temporary ones first, unless the search_path names pg_temp. A
connection that a tenant's SQL has used may have a temporary table with the name of one of our tables, and a trigger on
that table would run with the platform's rights. So pg_temp comes last. No other schema is in the search_path, because
an operator in another schema could replace one of PostgreSQL's operators.

    a pooled connection       `configure_connection` sets it once, when the connection is opened
    through PgBouncer         in transaction mode each transaction sets it, in the same round trip, unless the database
                              has this search_path already, as `atlasctl db init` sets it
    a caller's transaction    each operation sets it together with its savepoint, and restores the caller's search_path
                              at the end
"""

from typing import Any

from psycopg import InternalError
from psycopg.sql import SQL, Composed, Identifier

from atlas_sdk._sql import statements

__all__ = ["OWN_PATH", "begin_on_own_path", "commit_on_path", "path_before", "set_local"]

#: The statement that sets our search_path until the end of the transaction. It returns one row: the server's process
#: id, the search_path before, and ours.
OWN_PATH = SQL(statements("isolation")["own_path"].text)


def set_local(path: str) -> bytes:
    """Return the command that sets a search_path, as the server quoted it, for one transaction."""
    return b"SET LOCAL search_path = " + path.encode()


def begin_on_own_path(savepoint: str) -> Composed:
    """Return one text that sets a savepoint and our search_path; its last result is the row of `OWN_PATH`."""
    return SQL("SAVEPOINT {}; {}").format(Identifier(savepoint), OWN_PATH)


def path_before(cursor: Any) -> str:
    """Return the caller's search_path from the result of `begin_on_own_path`, whatever row factory the caller uses."""
    while cursor.nextset():
        pass
    found = cursor.pgresult.get_value(0, 1)
    if found is None:
        message = "the server tells no search_path"
        raise InternalError(message)
    return bytes(found).decode()


def commit_on_path(savepoint: str, before: str) -> Composed:
    """Return one text that restores the caller's search_path and releases the savepoint.

    A rollback to the savepoint restores the search_path by itself.
    """
    text = "SELECT pg_catalog.set_config('search_path', {}, true); RELEASE SAVEPOINT {}"
    return SQL(text).format(before, Identifier(savepoint))

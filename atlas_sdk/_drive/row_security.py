"""The commands that start a transaction under one user's row-level security.

The policies of every table apply to the role `atlas_app`, and compare rows with the setting `atlas.user_id`
(`sql/migrations/0012_administration.sql`). Role and setting end with the transaction, so neither stays on the
connection for the next client of a pooler. On a cluster, `SET` reaches the connections to the shards and
`set_config()` does not. The policies there need the user. The role must stay away, because the functions that act with
the owner's rights use the same connections.
"""

from functools import lru_cache
from uuid import UUID

from psycopg.sql import SQL, Composed

__all__ = ["COMMIT", "begin_command", "begin_commands"]

#: Ends the transaction that `begin_commands` starts.
COMMIT = b"COMMIT"
_ROLE = SQL("SELECT pg_catalog.set_config('role', 'atlas_app', true)")
_USER = SQL("SET LOCAL atlas.user_id = {}")


@lru_cache(maxsize=1024)
def begin_command(tenant: UUID | None, path: bytes) -> Composed:
    """Return one text that starts a transaction, under a tenant's row-level security if a tenant is given."""
    return SQL("; ").join(SQL(command.decode()) for command in begin_commands(tenant, path))


@lru_cache(maxsize=1024)
def begin_commands(tenant: UUID | None, path: bytes) -> tuple[bytes, ...]:
    """Return the same commands one by one, for a pipeline, where each message is one statement.

    `path` is the command that sets the search_path; empty when the connection has it already.
    """
    as_tenant = () if tenant is None else (_ROLE.as_bytes(), _USER.format(str(tenant)).as_bytes())
    return (b"BEGIN", *as_tenant, *((path,) if path else ()))

"""The wall between tenants: how a transaction is put under one user's row-level security.

The role is `atlas_app`, which the policies of every table apply to, and the setting is what they compare with
(`sql/migrations/0011_administration.sql`). Both end with the transaction, so that neither is left on a connection for
the next client of a pooler, and the setting is a literal: `set_config()` does not reach the shards of a cluster.
"""

from functools import lru_cache
from uuid import UUID

from psycopg.sql import SQL, Composed

__all__ = ["COMMIT", "begin_command", "begin_commands"]

#: Ends what `begin_commands` began.
COMMIT = b"COMMIT"
_ROLE = SQL("SET LOCAL ROLE atlas_app")
_USER = SQL("SET LOCAL atlas.user_id = {}")


@lru_cache(maxsize=1024)
def begin_command(tenant: UUID | None, path: bytes) -> Composed:
    """Return one text that begins a transaction, behind a tenant's wall if one is named: one round trip."""
    return SQL("; ").join(SQL(command.decode()) for command in begin_commands(tenant, path))


@lru_cache(maxsize=1024)
def begin_commands(tenant: UUID | None, path: bytes) -> tuple[bytes, ...]:
    """Return the same, one by one, for a pipeline, where each message is one statement.

    `path` sets the search_path, where the connection does not have it; empty: it does.
    """
    behind = () if tenant is None else (_ROLE.as_bytes(), _USER.format(str(tenant)).as_bytes())
    return (b"BEGIN", *behind, *((path,) if path else ()))

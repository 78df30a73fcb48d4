"""Facts about a database for a dump or a load: the place of the schema, and the number of rows of its tables."""

from attrs import frozen

from atlas_sdk._drive.admin import AdminSession
from atlas_sdk._sql import statements

__all__ = ["DatabaseFacts", "Table", "facts_of", "lift_limits", "sql", "tables_of"]

sql = statements("backups")


@frozen(kw_only=True)
class DatabaseFacts:
    """The place of our schema in a database, the login, and the server."""

    #: None when the database has no schema of ours.
    schema: str | None
    owner: str | None
    login: str
    database: str
    #: The schema that gets a new table whose name has no schema.
    first_schema: str | None
    #: The search_path of a new connection.
    search_path: str
    server_version: str
    major: int
    minor: int


@frozen(kw_only=True)
class Table:
    """A table and the number of its rows."""

    name: str
    amount: int
    #: True if the rows belong to users; False for plans and the schema's version.
    of_users: bool


def facts_of(session: AdminSession) -> DatabaseFacts:
    """Return the place of the schema, the login, and the server."""
    return DatabaseFacts(**(session.row(sql["facts"]) or {}))


def tables_of(session: AdminSession, schema: str) -> list[Table]:
    """Count the rows of every table of a schema."""
    return [Table(**row) for row in session.rows(session.written(sql["write_counts"], schema=schema))]


def lift_limits(session: AdminSession) -> None:
    """Make this transaction see all rows or fail, and lift its time limits."""
    session.rows(sql["lift_limits"])

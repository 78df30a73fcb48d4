"""Facts of a database that a dump or a load needs: where the schema is, and how many rows its tables have."""

from attrs import frozen

from atlas_sdk._drive.admin import AdminSession
from atlas_sdk._sql import statements

__all__ = ["Place", "Table", "lift_limits", "place_of", "sql", "tables_of"]

sql = statements("backups")


@frozen(kw_only=True)
class Place:
    """The place of our schema in a database, and the login that asks."""

    #: None: the database has no schema of ours.
    schema: str | None
    owner: str | None
    login: str
    database: str
    #: The schema in which a table without a schema's name would be made.
    first_schema: str | None
    #: The search_path of a new connection.
    search_path: str
    server_version: str
    major: int
    minor: int


@frozen(kw_only=True)
class Table:
    """The number of rows of a table."""

    name: str
    amount: int
    #: Whether its rows belong to users: not so plans, or the schema's version.
    of_users: bool


def place_of(session: AdminSession) -> Place:
    """Return where the schema is."""
    return Place(**(session.row(sql["place"]) or {}))


def tables_of(session: AdminSession, schema: str) -> list[Table]:
    """Count the rows of every table of a schema."""
    return [Table(**row) for row in session.rows(session.written(sql["write_counts"], schema=schema))]


def lift_limits(session: AdminSession) -> None:
    """See all rows or fail, and take the time that it takes, until the transaction ends."""
    session.rows(sql["unhindered"])

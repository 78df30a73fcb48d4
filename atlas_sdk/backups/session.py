"""One connection of its own for a dump or a load: what they set must not reach a pool."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any, TypeVar

import psycopg
from attrs import frozen
from psycopg import Connection
from psycopg.rows import class_row

from atlas_sdk._connect import Options, prepare
from atlas_sdk._drive import Driver
from atlas_sdk._plan import Plan
from atlas_sdk._sql import Statement, statements
from atlas_sdk._translate import translate

__all__ = ["Place", "Session", "Table", "connected", "sql"]

T = TypeVar("T")

sql = statements("backups")


@frozen(kw_only=True)
class Place:
    """The place of our schema in a database, and the login that asks."""

    #: None: the database has no schema of ours.
    schema: str | None
    owner: str | None
    login: str
    database: str
    #: Where a table without a schema's name would be made.
    first_schema: str | None
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


@frozen
class Session:
    """A connection, and the driver that runs plans in its open transaction."""

    connection: Connection[Any]
    driver: Driver
    #: It may hold a password.
    address: str

    def run(self, plan: Plan[T]) -> T:
        """Run a plan in the open transaction."""
        return self.driver.joined(self.connection).run(plan)

    def value(self, statement: Statement, **parameters: object) -> Any:
        """Run a statement that gives one value."""
        row = self.connection.execute(statement.text, parameters).fetchone()
        return None if row is None else row[0]

    def command(self, statement: Statement, **parameters: object) -> None:
        """Run what a statement writes, with the names quoted by the server."""
        self.connection.execute(self.value(statement, **parameters))

    def unhindered(self) -> None:
        """See all rows or fail, and take the time that it takes, until the transaction ends."""
        self.connection.execute(sql["unhindered"].text)

    def place(self) -> Place:
        """Return where the schema is."""
        with self.connection.cursor(row_factory=class_row(Place)) as cursor:
            (found,) = cursor.execute(sql["place"].text).fetchall()
        return found

    def tables(self, schema: str) -> list[Table]:
        """Count the rows of every table of a schema."""
        with self.connection.cursor(row_factory=class_row(Table)) as cursor:
            return cursor.execute(self.value(sql["write_counts"], schema=schema)).fetchall()


@contextmanager
def connected(dsn: str | None, home: str | PathLike[str] | None) -> Iterator[Session]:
    """Connect to a server, or to the embedded one, whatever its schema is. Translates psycopg's errors."""
    options: Options = {"home": home} if home is not None else {}
    opened = prepare(dsn, options)
    try:
        driver = Driver(opened.config, opened.context)
        try:
            with psycopg.connect(opened.config.ready(), **opened.config.kwargs | {"prepare_threshold": None}) as made:
                yield Session(made, driver, opened.config.dsn)
        except psycopg.Error as exc:
            raise translate(exc, opened.config.dsn) from exc
        finally:
            driver.close()
    finally:
        opened.release()

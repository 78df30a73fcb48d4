"""One connection for looking and making: statements from `sql/`, and commands that the server wrote."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import psycopg
from attrs import frozen
from psycopg import Connection
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from atlas_sdk._plan import Begin, Commit, Plan, Query, Result, Rollback
from atlas_sdk._sql import Statement, statements
from atlas_sdk._translate import translate
from atlas_sdk.dsn import parsed
from atlas_sdk.provision.address import Address

__all__ = ["Login", "Session", "translated"]

T = TypeVar("T")

sql = statements("provision")
isolation = statements("isolation")

_CONNECT_S = 5
#: As long as people wait for a command that seems to hang. What needs a table's lock then fails, and says so.
_LOCK_WAIT = "10s"


@frozen(kw_only=True)
class Login:
    """A connection for provisioning, with the rights of its role."""

    name: str
    is_superuser: bool
    may_create_roles: bool
    may_create_databases: bool
    #: 150004 is 15.4.
    version_number: int
    version: str
    #: A copy that follows another server and takes no writes.
    is_standby: bool
    database: str
    encoding: str


class Session:
    """A connection in autocommit; its errors are psycopg's, until `translated` turns them into ours."""

    def __init__(self, connection: Connection[dict[str, Any]], address: Address) -> None:
        self.connection = connection
        self.address = address
        #: The search_path that a new connection has.
        self.search_path = ""

    @classmethod
    @contextmanager
    def open(cls, address: Address) -> Iterator["Session"]:
        """Connect, and close at the end. Raises psycopg.OperationalError when that cannot be."""
        more: dict[str, Any] = {}
        if "connect_timeout" not in parsed(address.dsn):
            more["connect_timeout"] = _CONNECT_S
        with psycopg.connect(
            address.dsn,
            autocommit=True,
            prepare_threshold=None,
            application_name="atlasctl",
            row_factory=dict_row,
            **more,
        ) as connection:
            session = cls(connection, address)
            session._take_own_path()
            yield session

    def _take_own_path(self) -> None:
        """Look for tables in our own schema first and among temporary ones last."""
        found = self.row(isolation["own_path"]) or {}
        self.search_path = found["before"]
        # Behind a pooler it would stay on a connection that others use next.
        if found["pid"] == self.connection.info.backend_pid:
            self.value(sql["set_path"], path=found["path"])

    def login(self) -> Login:
        """Return who is connected to what."""
        return Login(**(self.row(sql["login"]) or {}))

    def rows(self, statement: Statement, /, **parameters: object) -> list[dict[str, Any]]:
        """Return the rows of a statement."""
        return self.connection.execute(statement.text.encode(), parameters or None).fetchall()

    def row(self, statement: Statement, /, **parameters: object) -> dict[str, Any] | None:
        """Return the one row of a statement, if it has one."""
        found = self.rows(statement, **parameters)
        return found[0] if found else None

    def value(self, statement: Statement, /, **parameters: object) -> Any:
        """Return the one column of the one row of a statement."""
        (row,) = self.rows(statement, **parameters)
        (value,) = row.values()
        return value

    def do(self, command: str) -> None:
        """Run a command that the server wrote."""
        # A text without parameters: a percent sign in a name is one.
        self.connection.execute(command.encode())

    @contextmanager
    def transaction(self, *, role: str | None = None) -> Iterator[None]:
        """Run what is inside in one transaction, as another role if one is given."""
        with self.connection.transaction():
            self.rows(isolation["own_path"])
            self.value(sql["limit_waiting"], wait=_LOCK_WAIT)
            if role is not None:
                self.value(sql["become"], role=role)
            yield

    def run(self, plan: Plan[T], *, role: str | None = None) -> T:
        """Run a plan of statements, each of its transactions as another role if one is given."""
        try:
            effect = next(plan)
            while True:
                answer: object = None
                if isinstance(effect, Query):
                    answer = self._query(effect.statement, effect.parameters)
                elif isinstance(effect, Begin):
                    self.connection.execute("BEGIN")
                    if role is not None:
                        self.value(sql["become"], role=role)
                elif isinstance(effect, Commit | Rollback):
                    self.connection.execute("COMMIT" if isinstance(effect, Commit) else "ROLLBACK")
                else:
                    message = f"{type(effect).__name__} is not for setting up"
                    raise TypeError(message)
                effect = plan.send(answer)
        except StopIteration as stop:
            return cast("T", stop.value)
        except psycopg.Error:
            if self.connection.info.transaction_status in {TransactionStatus.INTRANS, TransactionStatus.INERROR}:
                self.connection.execute("ROLLBACK")
            raise
        finally:
            plan.close()

    def _query(self, statement: Statement, parameters: Mapping[str, object]) -> Result:
        cursor = self.connection.execute(statement.text.encode(), parameters or None)
        rows = [tuple(row.values()) for row in cursor.fetchall()] if cursor.description else []
        return Result(tuple(column.name for column in cursor.description or ()), rows, cursor.rowcount)


@contextmanager
def translated(address: Address) -> Iterator[None]:
    """Raise our errors for psycopg's."""
    try:
        yield
    except psycopg.Error as exc:
        raise translate(exc, address.dsn) from exc

"""One unpooled connection for administration: to set up, examine, dump and load a database.

The connection is opened and configured like a client's connections, and the same driver runs plans on it. Besides, an
`AdminSession` has features for administration only: statements outside of a transaction, transactions as another role,
rows by column name, COPY. Every error of psycopg is raised as one of ours; `server_message` returns the server's own
message.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import psycopg
from psycopg import IsolationLevel, pq
from psycopg.abc import Buffer
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.sql import Identifier

from atlas_sdk._context import Context
from atlas_sdk._drive.blocking import Driver
from atlas_sdk._drive.configure import configure_connection
from atlas_sdk._drive.connection_config import ConnectionConfig
from atlas_sdk._drive.pooled_connection import PooledConnection
from atlas_sdk._drive.search_path import OWN_PATH
from atlas_sdk._plan import Plan
from atlas_sdk._sql import Statement, statements
from atlas_sdk._translate import translate
from atlas_sdk.dsn import parsed, with_parts
from atlas_sdk.errors import AtlasError

__all__ = ["AdminSession", "ping", "quoted_name", "server_message", "statement_fault"]

T = TypeVar("T")

sql = statements("admin")

#: Seconds to wait for a server. A server at the other end of the world answers within this time.
_PING_S = 5
#: Errors of a server that is older than a dump, and does not know a word, an object or a function in the dump.
_UNKNOWN = (psycopg.errors.SyntaxError, psycopg.errors.UndefinedObject, psycopg.errors.UndefinedFunction)
_INVALID = (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError, psycopg.NotSupportedError)


class AdminSession:
    """A connection in autocommit, for one thread."""

    def __init__(self, connection: PooledConnection, driver: Driver, config: ConnectionConfig) -> None:
        self._connection = connection
        self._driver = driver
        self._config = config

    @classmethod
    @contextmanager
    def open(cls, config: ConnectionConfig, context: Context) -> Iterator["AdminSession"]:
        """Yield a session, and close its connection at the end. Raises DatabaseUnreachable."""
        driver = Driver(config, context)
        try:
            with _translated(config.dsn):
                connection = PooledConnection.connect(config.ready(), **config.kwargs)
            with connection:
                with _translated(config.dsn):
                    configure_connection(config, connection)
                yield cls(connection, driver, config)
        finally:
            driver.close()

    @property
    def dsn(self) -> str:
        """The address, which may hold a password."""
        return self._config.dsn

    @property
    def database(self) -> str:
        """The name of the database."""
        return self._connection.info.dbname

    @property
    def password(self) -> str:
        """The password that the connection was made with, wherever libpq found it; "" when there is none."""
        return self._connection.info.password

    @property
    def is_encrypted(self) -> bool:
        """True if the connection uses TLS."""
        return self._connection.pgconn.ssl_in_use

    @property
    def server_major(self) -> int:
        """The server's major version."""
        return self._connection.info.server_version // 10_000

    def password_verifier(self, login: str, password: str) -> str:
        """Return the verifier that the server stores for a password. The password never leaves this process."""
        return self._connection.pgconn.encrypt_password(password.encode(), login.encode(), b"scram-sha-256").decode()

    def rows(self, statement: Statement, /, **parameters: object) -> list[dict[str, Any]]:
        """Run a statement; return its rows by column name."""
        with _translated(self.dsn), self._connection.cursor(row_factory=dict_row) as cursor:
            # Send bytes: the encoding of the database may lack a character of a comment in the statement.
            cursor.execute(statement.text.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def row(self, statement: Statement, /, **parameters: object) -> dict[str, Any] | None:
        """Run a statement; return its first row, or None if it has no rows."""
        found = self.rows(statement, **parameters)
        return found[0] if found else None

    def value(self, statement: Statement, /, **parameters: object) -> Any:
        """Run a statement that gives one row of one column; return that value."""
        (row,) = self.rows(statement, **parameters)
        (value,) = row.values()
        return value

    def execute(self, command: str) -> None:
        """Run commands that the server or a dump wrote; outside of a transaction each one commits by itself."""
        with _translated(self.dsn):
            # Give no parameters, so that a percent sign in a name has no special meaning.
            self._connection.execute(command)

    def written(self, statement: Statement, /, **parameters: object) -> Statement:
        """Run a statement that returns the text of another statement, with quoted names; return the other statement."""
        return Statement(f"{statement.name}.written", self.value(statement, **parameters))

    @contextmanager
    def copy_in(self, command: str) -> Iterator[Callable[[Buffer], None]]:
        """Run a COPY … FROM STDIN; yield the function that sends its rows. An exception cancels the command."""
        with _translated(self.dsn), self._connection.cursor() as cursor, cursor.copy(command) as copy:
            yield copy.write

    @contextmanager
    def transaction(
        self, *, role: str | None = None, lock_timeout: str | None = None, snapshot: bool = False, keep: bool = True
    ) -> Iterator[None]:
        """Run the block in one transaction.

        In the transaction, the connection acts as `role`. `lock_timeout` is the longest wait for a lock, such as "10s".
        With `snapshot` the transaction only reads, and sees the database as of one moment. Without `keep` the
        transaction ends with a rollback.
        """
        with _translated(self.dsn):
            self._connection.isolation_level = IsolationLevel.REPEATABLE_READ if snapshot else None
            self._connection.read_only = snapshot or None
            with self._connection.transaction(force_rollback=not keep):
                self._connection.execute(OWN_PATH)
                if lock_timeout is not None:
                    self.value(sql["limit_waiting"], wait=lock_timeout)
                if role is not None:
                    self.act_as(role)
                yield

    def act_as(self, role: str) -> None:
        """Act as another role for the rest of the transaction."""
        self.value(sql["become"], role=role)

    def reset_settings(self) -> None:
        """Reset all settings of this connection. Behind a pooler, the next client would get them."""
        with _translated(self.dsn):
            self._connection.execute("RESET ALL")
            self._connection.execute(OWN_PATH)

    def run(self, plan: Plan[T], *, role: str | None = None) -> T:
        """Run a plan in the open transaction, or else in a new transaction as `role`."""
        if self._connection.info.transaction_status == TransactionStatus.IDLE:
            with self.transaction(role=role):
                return self._driver.joined(self._connection).run(plan)
        return self._driver.joined(self._connection).run(plan)


@contextmanager
def _translated(dsn: str) -> Iterator[None]:
    """Raise our errors for psycopg's."""
    try:
        yield
    except psycopg.Error as exc:
        raise translate(exc, dsn) from exc


def quoted_name(name: str) -> str:
    """Return a name as an identifier of SQL: in double quotes."""
    return Identifier(name).as_string()


def ping(dsn: str) -> Literal["ok", "rejects", "silent", "unknown"]:
    """Ask a server, without a login, whether it accepts connections; "rejects" if it starts, stops or recovers."""
    if "connect_timeout" not in parsed(dsn):
        dsn = with_parts(dsn, connect_timeout=_PING_S)
    answers: dict[int, Literal["ok", "rejects", "silent"]] = {
        pq.Ping.OK: "ok",
        pq.Ping.REJECT: "rejects",
        pq.Ping.NO_RESPONSE: "silent",
    }
    return answers.get(pq.PGconn.ping(dsn.encode()), "unknown")


def server_message(error: AtlasError) -> str:
    """Return the message of the server or of libpq that caused our error."""
    cause = error.__cause__
    return (cause.diag.message_primary if isinstance(cause, psycopg.Error) else None) or str(cause or error)


def statement_fault(error: AtlasError) -> Literal["unknown", "invalid"] | None:
    """Return "unknown" if the server does not know a part of the statement, "invalid" for another fault, else None.

    The result is None if the statement itself has no fault.
    """
    cause = error.__cause__
    if not isinstance(cause, _INVALID) or isinstance(cause, psycopg.errors.InsufficientPrivilege):
        return None
    return "unknown" if isinstance(cause, _UNKNOWN) else "invalid"

"""Connections for administration: open one, and read what its login may do."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

from attrs import frozen

from atlas_sdk._connect import Options, prepare
from atlas_sdk._drive.admin import AdminSession
from atlas_sdk._sql import statements
from atlas_sdk.dsn import parsed
from atlas_sdk.model.schema import AppliedMigration
from atlas_sdk.ops import schema

__all__ = ["LOCK_TIMEOUT", "AdminLogin", "login_of", "migrate_as", "open_session"]

sql = statements("provision")

#: People wait this long for a command that seems to hang. A command that needs a table's lock for longer fails.
LOCK_TIMEOUT = "10s"


@frozen(kw_only=True)
class AdminLogin:
    """The role and the database of a connection."""

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


@contextmanager
def open_session(dsn: str | None, home: str | PathLike[str] | None = None) -> Iterator[AdminSession]:
    """Connect to a server, or without a DSN to the embedded one; close at the end. Raises DatabaseUnreachable."""
    options: Options = {"prepare_statements": False}
    if home is not None:
        options["home"] = home
    if dsn is not None and (timeout := parsed(dsn).get("connect_timeout", "")).isdecimal() and int(timeout):
        options["connect_timeout_s"] = float(timeout)
    opened = prepare(dsn, options)
    try:
        with AdminSession.open(opened.config, opened.context) as session:
            yield session
    finally:
        opened.release()


def login_of(session: AdminSession) -> AdminLogin:
    """Return who is connected to what."""
    return AdminLogin(**(session.row(sql["login"]) or {}))


def migrate_as(session: AdminSession, role: str | None) -> list[AppliedMigration]:
    """Apply the missing migrations, one transaction each, as another role if one is given; return what was applied."""
    applied: list[AppliedMigration] = []
    if session.run(schema.pending()):
        while (row := session.run(schema.apply_next(), role=role)) is not None:
            applied.append(row)
    return applied

"""Connections for administration: open a connection, and read the rights of its login."""

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

#: The longest wait for the lock of a table; then the command fails. People wait about this long for a command that
#: seems to hang.
LOCK_TIMEOUT = "10s"


@frozen(kw_only=True)
class AdminLogin:
    """The role and the database of a connection."""

    name: str
    is_superuser: bool
    may_create_roles: bool
    may_create_databases: bool
    #: For example 150004 for version 15.4.
    version_number: int
    version: str
    #: True for a server that follows another one and takes no writes.
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
    """Return the role and the database of a connection."""
    return AdminLogin(**(session.row(sql["login"]) or {}))


def migrate_as(session: AdminSession, role: str | None) -> list[AppliedMigration]:
    """Apply the missing migrations, one transaction each, as `role` if it is given; return these migrations."""
    applied: list[AppliedMigration] = []
    if session.run(schema.pending()):
        while (row := session.run(schema.apply_next(), role=role)) is not None:
            applied.append(row)
    return applied

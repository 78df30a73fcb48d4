"""Examine a database: find the known problems and the advice for each, and change nothing."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from atlas_sdk._drive.admin import AdminSession
from atlas_sdk._sql import statements
from atlas_sdk.errors import DatabaseUnreachable
from atlas_sdk.provision.address import Address
from atlas_sdk.provision.connection_check import explain
from atlas_sdk.provision.examine_schema import examine_schema
from atlas_sdk.provision.examine_server import examine_server, examine_tables
from atlas_sdk.provision.examine_space import examine_space
from atlas_sdk.provision.findings import Diagnosis, Finding, fine
from atlas_sdk.provision.session import login_of, open_session

__all__ = ["examine"]

provision = statements("provision")


def _now() -> datetime:
    return datetime.now(UTC)


def examine(address: Address, *, home: Path | None = None, clock: Callable[[], datetime] = _now) -> Diagnosis:
    """Look for all known problems of a database; return them with advice for each.

    The checks are: connection, the grants of the login and of tenants, version and completeness of the schema, indexes,
    row-level security, settings, connections, clocks, vacuum, free space. They only read. A database that cannot be
    reached is a finding, not an error. `home` is the folder of the embedded database and of the watcher's state,
    `clock` the clock of this machine. Raises InvalidInput for a DSN that cannot be read.
    """
    with ExitStack() as stack:
        try:
            session = stack.enter_context(open_session(address.dsn))
        except DatabaseUnreachable as refusal:
            return Diagnosis(
                place=address.place, source=address.source, reachable=False, findings=(explain(address, refusal),)
            )
        findings = tuple(_findings(session, address, home, clock))
    return Diagnosis(place=address.place, source=address.source, reachable=True, findings=findings)


def _findings(
    session: AdminSession, address: Address, home: Path | None, clock: Callable[[], datetime]
) -> Iterator[Finding]:
    login = login_of(session)
    yield fine("connection", f"PostgreSQL {login.version} as {login.name}")
    yield from examine_server(session, login, clock=clock)
    yield from examine_space(session, home=home, is_embedded=address.source == "embedded")
    yield from examine_schema(session, login)
    place = session.row(provision["schema"]) or {}
    if place["owner"] is not None:
        yield examine_tables(session, place["name"])

"""Examine a database: what is wrong with it, and what mends it. Nothing is changed."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from atlas_sdk._sql import statements
from atlas_sdk._translate import translate
from atlas_sdk.provision.address import Address
from atlas_sdk.provision.connection_check import explain
from atlas_sdk.provision.examine_schema import examine_schema
from atlas_sdk.provision.examine_server import examine_server, examine_tables
from atlas_sdk.provision.examine_space import examine_space
from atlas_sdk.provision.findings import Diagnosis, Finding, fine
from atlas_sdk.provision.session import Session, translated

__all__ = ["examine"]

provision = statements("provision")


def _now() -> datetime:
    return datetime.now(UTC)


def examine(address: Address, *, home: Path | None = None, clock: Callable[[], datetime] = _now) -> Diagnosis:
    """Look for everything that is known to go wrong with a database, and say how to mend it.

    Whether it can be reached, the login's and the tenants' grants, version and completeness of the schema, indexes,
    row-level security, settings, connections, clocks, vacuum, free space. Only reads. Does not raise when the database
    cannot be reached: that is a finding. `home` is the folder of the embedded database and of the watcher's state,
    `clock` this machine's. Raises InvalidInput for a DSN that cannot be read.
    """
    with ExitStack() as stack:
        try:
            session = stack.enter_context(Session.open(address))
        except psycopg.OperationalError as refusal:
            return Diagnosis(
                place=address.place, source=address.source, reachable=False, findings=(explain(address, refusal),)
            )
        except psycopg.ProgrammingError as exc:
            raise translate(exc, address.dsn) from exc
        with translated(address):
            findings = tuple(_findings(session, home, clock))
    return Diagnosis(place=address.place, source=address.source, reachable=True, findings=findings)


def _findings(session: Session, home: Path | None, clock: Callable[[], datetime]) -> Iterator[Finding]:
    login = session.login()
    yield fine("connection", f"PostgreSQL {login.version} as {login.name}")
    yield from examine_server(session, login, clock=clock)
    yield from examine_space(session, home=home)
    yield from examine_schema(session, login)
    place = session.row(provision["schema"]) or {}
    if place["owner"] is not None:
        yield examine_tables(session, place["name"])

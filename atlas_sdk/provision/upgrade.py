"""Migrations of a schema that is there: what would be applied, and applying it as the owner."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import evolve, frozen

from atlas_sdk._connect import prepare
from atlas_sdk._sql import Migration, migrations, statements
from atlas_sdk.errors import SchemaMismatch
from atlas_sdk.model.schema import AppliedMigration
from atlas_sdk.ops import schema
from atlas_sdk.provision.address import Address
from atlas_sdk.provision.create_schema import is_ancestor, renew_grants
from atlas_sdk.provision.roles import may_become
from atlas_sdk.provision.script import about, commands, lock_of, made_tables
from atlas_sdk.provision.session import Session, translated

__all__ = ["Lock", "PendingMigration", "embedded", "migrate", "plan_migrations"]

sql = statements("provision")

#: As much of a command as fits beside its table.
_SHOWN = 100


@frozen(kw_only=True)
class Lock:
    """The effect of a migration's command on others who use a table meanwhile."""

    #: Empty: its text does not tell.
    table: str
    #: "blocks reads and writes", …; until the transaction of the migration is over.
    effect: str
    #: How the command begins.
    command: str


@frozen(kw_only=True)
class PendingMigration:
    """A migration that would be applied."""

    version: int
    name: str
    #: What it says of itself.
    about: str
    #: In the order of its commands; not for tables or a schema that are new, which nobody uses yet.
    locks: tuple[Lock, ...]


@contextmanager
def embedded(home: Path) -> Iterator[Address]:
    """Start or join the embedded server, and leave it at the end."""
    opened = prepare(None, {"home": home})
    try:
        yield Address(dsn=opened.config.dsn, source="embedded")
    finally:
        opened.release()


def plan_migrations(address: Address) -> tuple[int, list[PendingMigration]]:
    """Return the version of the schema, 0 for none, and what `migrate` would apply; changes nothing.

    Raises SchemaMismatch when the schema is newer or was made by other migrations, and DatabaseUnreachable.
    """
    with translated(address), Session.open(address) as session:
        try:
            session.run(schema.check())
        except SchemaMismatch as mismatch:
            found = mismatch.found or 0
            # That its migrations differ is also told in this way: then none are missing, or the first ones are others.
            if found >= mismatch.wanted or not is_ancestor(session.run(schema.status())):
                raise
            pending = planned(found)
            # Without a schema nobody is there to feel anything.
            return found, pending if found else [evolve(migration, locks=()) for migration in pending]
        return len(migrations()), []


def planned(found: int) -> list[PendingMigration]:
    """Return what would be applied to a schema of this version."""
    # What one migration makes, a later one may change without anybody's noticing.
    new: set[str] = set()
    result = []
    for migration in migrations()[found:]:
        new |= made_tables(migration.text)
        result.append(
            PendingMigration(
                version=migration.version,
                name=migration.name,
                about=about(migration.text),
                locks=tuple(lock for lock in _locks(migration) if lock.table not in new),
            )
        )
    return result


def _locks(migration: Migration) -> Iterator[Lock]:
    for command in commands(migration.text):
        if (found := lock_of(command)) is not None:
            table, effect = found
            shown = command if len(command) <= _SHOWN else command[: _SHOWN - 2].rstrip() + " …"
            yield Lock(table=table, effect=effect, command=" ".join(shown.split()))


def migrate(address: Address) -> tuple[int, list[AppliedMigration]]:
    """Apply what is missing, as the owner of the schema, and renew the grants; return version and what was applied.

    One transaction each, safe to run from many processes at once. Raises SchemaMismatch when the schema is newer.
    """
    with translated(address), Session.open(address) as session:
        place = session.row(sql["schema"]) or {}
        owner = place["owner"]
        # Else some tables would be another's, who could not change the first ones.
        role = owner if owner is not None and may_become(session, owner) else None
        applied = session.run(schema.migrate(), role=role)
        if applied and (place := session.row(sql["schema"]) or {})["name"] is not None:
            renew_grants(session, place["name"])
        return len(session.run(schema.status())), applied

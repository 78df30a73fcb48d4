"""Plan the missing migrations of a schema, and apply them as its owner."""

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
from atlas_sdk.provision.migration_text import about, commands, lock_of, made_tables
from atlas_sdk.provision.roles import may_become
from atlas_sdk.provision.session import migrate_as, open_session

__all__ = ["Lock", "PendingMigration", "embedded", "migrate", "plan_migrations"]

sql = statements("provision")

#: The most characters of a command to show, so that it fits beside its table.
_SHOWN = 100


@frozen(kw_only=True)
class Lock:
    """The effect of a migration's command on other clients that use the table at that time."""

    #: The name of the table; empty if the text of the command does not name one.
    table: str
    #: "blocks reads and writes", …; the effect lasts until the transaction of the migration ends.
    effect: str
    #: The beginning of the command.
    command: str


@frozen(kw_only=True)
class PendingMigration:
    """A migration that would be applied."""

    version: int
    name: str
    #: The first sentence of the comment at the beginning of its file.
    about: str
    #: The locks of its commands, in their order. Locks in a new schema or on new tables are left out, because nobody
    #: uses them yet.
    locks: tuple[Lock, ...]


@contextmanager
def embedded(home: Path) -> Iterator[Address]:
    """Start or join the embedded server, yield its address, and release the server at the end."""
    opened = prepare(None, {"home": home})
    try:
        yield Address(dsn=opened.config.dsn, source="embedded")
    finally:
        opened.release()


def plan_migrations(address: Address) -> tuple[int, list[PendingMigration]]:
    """Return the version of the schema, 0 for none, and the migrations that `migrate` would apply; change nothing.

    Raises SchemaMismatch when the schema is newer or was made by other migrations, and DatabaseUnreachable.
    """
    with open_session(address.dsn) as session:
        try:
            session.run(schema.check())
        except SchemaMismatch as mismatch:
            found = mismatch.found or 0
            # SchemaMismatch has three causes. Plan only if migrations are missing, not if the schema is newer or if an
            # applied migration differs.
            if found >= mismatch.wanted or not is_ancestor(session.run(schema.status())):
                raise
            pending = planned(found)
            # Without a schema there are no users whom a lock could block.
            return found, pending if found else [evolve(migration, locks=()) for migration in pending]
        return len(migrations()), []


def planned(found: int) -> list[PendingMigration]:
    """Return the migrations that a schema of this version lacks."""
    # Leave out locks on tables that these migrations make, because nobody uses those tables yet.
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
    """Apply the missing migrations as the owner of the schema, and renew the grants; return version and migrations.

    Each migration is a transaction. Many processes may call this at once. Raises SchemaMismatch when the schema is
    newer.
    """
    with open_session(address.dsn) as session:
        place = session.row(sql["schema"]) or {}
        owner = place["owner"]
        # Act as the owner: another login would own the new tables, and could not change the old ones.
        role = owner if owner is not None and may_become(session, owner) else None
        applied = migrate_as(session, role)
        if applied and (place := session.row(sql["schema"]) or {})["name"] is not None:
            renew_grants(session, place["name"])
        return len(session.run(schema.status())), applied

"""Apply and check migrations: forward only, one transaction each, with checksums."""

import hashlib

from atlas_sdk._plan import Plan, atomic, execute, many, one, scalar
from atlas_sdk._sql import Migration, Statement, migrations, statements
from atlas_sdk.errors import SchemaMismatch
from atlas_sdk.model.schema import AppliedMigration, ServerFacts

__all__ = ["apply_next", "check", "checksum", "lock_creation", "migrate", "pending", "server", "status"]

sql = statements("schema")
isolation = statements("isolation")


def checksum(migration: Migration) -> str:
    """Return the checksum of a migration's text, as stored in schema_version."""
    return hashlib.sha256(migration.text.encode()).hexdigest()


def _compare(applied: list[AppliedMigration]) -> list[Migration]:
    """Return the migrations that are not applied yet.

    Raises SchemaMismatch if the applied migrations are not the first ones of this AtlasEngine, in order.
    """
    known = migrations()
    # Compare the migrations before their number: an unreleased version had more migrations than its release.
    for row, migration in zip(applied, known, strict=False):
        if (row.version, row.name, row.checksum) != (migration.version, migration.name, checksum(migration)):
            raise SchemaMismatch(
                f"migration {row.version} ({row.name}) in the database is not the one of this AtlasEngine: "
                "a changed or unreleased version made the schema; use that version for it, or set up another "
                "database; nothing was changed",
                found=len(applied),
                wanted=len(known),
            )
    if len(applied) > len(known):
        raise SchemaMismatch(
            f"the database has schema version {len(applied)}, this AtlasEngine knows {len(known)}: "
            "upgrade AtlasEngine (pip install -U atlasengine); nothing was changed",
            found=len(applied),
            wanted=len(known),
        )
    return list(known[len(applied) :])


def status() -> Plan[list[AppliedMigration]]:
    """Return the applied migrations in order; an empty list when there is no schema."""
    if not (yield from scalar(sql["exists"], bool)):
        return []
    return (yield from many(sql["applied"], AppliedMigration))


def pending() -> Plan[list[Migration]]:
    """Return the migrations that are not applied yet. Raises SchemaMismatch if the schema is newer or differs."""
    return _compare((yield from status()))


def check() -> Plan[None]:
    """Raise SchemaMismatch unless the database has exactly this code's schema."""
    missing = yield from pending()
    if missing:
        found = len(migrations()) - len(missing) or None
        what = "no AtlasEngine schema" if found is None else f"schema version {found}"
        raise SchemaMismatch(
            f"the database has {what}, this AtlasEngine needs {len(migrations())}: the option migrate=True applies the "
            "migrations, as the schema's owner",
            found=found,
            wanted=len(migrations()),
            migratable=True,
        )


def migrate() -> Plan[list[AppliedMigration]]:
    """Apply the pending migrations, one transaction each; return them. Many processes may do this at once."""
    done: list[AppliedMigration] = []
    # Check before locking: nearly always no migration is pending, and then the call must not wait for a lock.
    if not (yield from pending()):
        return done
    while (row := (yield from apply_next())) is not None:
        done.append(row)
    return done


def lock_creation() -> Plan[None]:
    """Let only one transaction at a time create the schema, if the login has the right to take the lock."""
    if (yield from scalar(sql["may_lock"], bool)):
        yield from execute(sql["lock"])


@atomic
def apply_next() -> Plan[AppliedMigration | None]:
    """Apply the first pending migration in one transaction; return it, or None when none is pending."""
    # Set the search_path first: functions keep the search_path with which they are created.
    yield from execute(isolation["own_path"])
    if not (yield from scalar(sql["exists"], bool)):
        yield from lock_creation()
        yield from execute(sql["create_version_table"])
    yield from execute(sql["lock_version"])
    applied = yield from many(sql["applied"], AppliedMigration)
    missing = _compare(applied)
    if not missing:
        return None
    migration = missing[0]
    yield from execute(Statement(f"migration.{migration.version:04}_{migration.name}", migration.text))
    yield from execute(sql["record"], version=migration.version, name=migration.name, checksum=checksum(migration))
    rows = yield from many(sql["applied"], AppliedMigration)
    return rows[-1]


def server() -> Plan[ServerFacts]:
    """Return facts that the server reports about itself."""
    return (yield from one(sql["server"], ServerFacts))

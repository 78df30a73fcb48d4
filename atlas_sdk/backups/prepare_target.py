"""Check that a dump goes into an empty schema, and drop our objects in it."""

from typing import Any, Final

from atlas_sdk._drive.admin import AdminSession
from atlas_sdk.backups.archive import Archive
from atlas_sdk.backups.comparing import Definitions, definitions
from atlas_sdk.backups.facts import DatabaseFacts, facts_of, sql, tables_of
from atlas_sdk.errors import BackupFailed
from atlas_sdk.ops import schema
from atlas_sdk.provision.inventory import expected
from atlas_sdk.text import some

__all__ = ["make_room"]

_ELSEWHERE: Final = "load into an empty database, or into the embedded one of a fresh home (--home FOLDER)"


def make_room(session: AdminSession, archive: Archive) -> Definitions:
    """Drop every object of ours in the dump's schema, in the open transaction, and act as the owner from then on.

    The schema is migrated first, whatever its version. The migrations make the roles of tenants, if this login may, and
    then the inventory has the name of each object of ours. Returns the definitions that the migrations make there.
    Raises BackupFailed when the load would lose any data.
    """
    session.run(schema.lock_creation())
    place = _agreed(session, archive)
    if place.schema is None:
        _refuse_others(session, archive, place, ours=set())
    if place.owner not in {None, place.login}:
        session.act_as(str(place.owner))
    session.run(schema.migrate())
    _refuse_others(session, archive, place, ours=set(expected().names("table", "view", "function", "type")))
    tables = [table.name for table in tables_of(session, archive.schema)]
    session.execute(session.value(sql["write_lock_tables"], schema=archive.schema, tables=tables))
    # Count after the lock, when no other client can write.
    full = [
        f"{each.name} {each.amount:,}" for each in tables_of(session, archive.schema) if each.of_users and each.amount
    ]
    if full:
        raise BackupFailed(
            f"{place.database} is not empty, and a load never goes over data (rows: {some(full)}): {_ELSEWHERE}; "
            "nothing was written"
        )
    outside = session.value(sql["count_outside"], schema=archive.schema)
    _drop_all(session, archive)
    if session.value(sql["count_outside"], schema=archive.schema) != outside:
        raise BackupFailed(
            f"other schemas of {place.database} have things that are built on the tables of AtlasEngine, such as a "
            f"view: {_ELSEWHERE}; nothing was written"
        )
    # Make the objects again, because somebody may have changed the old ones.
    session.run(schema.migrate())
    fresh = definitions(session, archive.schema)
    _drop_all(session, archive)
    return fresh


def _refuse_others(session: AdminSession, archive: Archive, place: DatabaseFacts, *, ours: set[str]) -> None:
    others = sorted(row["name"] for row in _objects(session, archive) if row["name"] not in ours)
    if others:
        raise BackupFailed(
            f"the schema {archive.schema} of {place.database} holds other things ({some(others)}): {_ELSEWHERE}; "
            "nothing was written"
        )


def _drop_all(session: AdminSession, archive: Archive) -> None:
    for row in _objects(session, archive):
        session.execute(row["command"])


def _objects(session: AdminSession, archive: Archive) -> list[dict[str, Any]]:
    return session.rows(sql["objects"], schema=archive.schema)


def _agreed(session: AdminSession, archive: Archive) -> DatabaseFacts:
    """Return the place of the schema; refuse if this login looks for tables in another schema than the dump's."""
    place = facts_of(session)
    if place.schema is None and place.first_schema is None and archive.schema in _path(place):
        session.execute(session.value(sql["write_make_schema"], schema=archive.schema))
        place = facts_of(session)
    if (place.schema or place.first_schema) != archive.schema:
        raise BackupFailed(
            f"the dump has its tables in the schema {archive.schema}, and this login's search_path is "
            f"{place.search_path}: let it begin with {archive.schema} (in the DSN: "
            f"options=-csearch_path%3D{archive.schema}); nothing was written"
        )
    return place


def _path(place: DatabaseFacts) -> list[str]:
    names = [name.strip().strip('"') for name in place.search_path.split(",")]
    return [place.login if name == "$user" else name for name in names]

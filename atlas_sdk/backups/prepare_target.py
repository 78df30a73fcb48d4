"""Make sure that a dump goes into an empty place, and make room for it there."""

import re
from functools import cache
from typing import Final

from psycopg.rows import dict_row

from atlas_sdk._sql import migrations
from atlas_sdk.backups.archive import Archive
from atlas_sdk.backups.comparing import Definitions, definitions, some
from atlas_sdk.backups.session import Place, Session, sql
from atlas_sdk.errors import BackupFailed
from atlas_sdk.ops import schema

__all__ = ["make_room"]

_CREATE = re.compile(
    r"^CREATE (?:OR REPLACE )?(?:TABLE|VIEW|FUNCTION|PROCEDURE|DOMAIN|TYPE|SEQUENCE)(?: IF NOT EXISTS)? (\w+)",
    re.MULTILINE,
)
_ELSEWHERE: Final = "load into an empty database, or into the embedded one of a fresh home (--home FOLDER)"


def make_room(session: Session, archive: Archive) -> Definitions:
    """Leave the dump's schema without a thing of ours, in the open transaction, and acting as its owner.

    The schema is migrated first, whatever its version: that makes the roles that tenants act as, where this login may,
    and then every thing of ours is known by its name. Returns what the migrations make there. Raises BackupFailed when
    there is anything to lose.
    """
    session.run(schema.lock_creation())
    place = _agreed(session, archive)
    things = _things(session, archive.schema)
    strangers = sorted(name for _, name, _ in things if place.schema is None or name not in _ours())
    if strangers:
        raise BackupFailed(
            f"the schema {archive.schema} of {place.database} holds other things ({some(strangers)}): {_ELSEWHERE}; "
            "nothing was written"
        )
    if place.owner not in {None, place.login}:
        session.command(sql["write_act_as"], owner=place.owner)
    session.run(schema.migrate())
    tables = session.tables(archive.schema)
    session.command(sql["write_close"], schema=archive.schema, tables=[table.name for table in tables])
    # Now that nobody else can write.
    full = [
        f"{table.name} {table.amount:,}" for table in session.tables(archive.schema) if table.of_users and table.amount
    ]
    if full:
        raise BackupFailed(
            f"{place.database} is not empty, and a load never goes over data (rows: {some(full)}): {_ELSEWHERE}; "
            "nothing was written"
        )
    outside = session.value(sql["outside"], schema=archive.schema)
    _drop_all(session, archive)
    if session.value(sql["outside"], schema=archive.schema) != outside:
        raise BackupFailed(
            f"other schemas of {place.database} have things that are built on the tables of AtlasEngine, such as a "
            f"view: {_ELSEWHERE}; nothing was written"
        )
    # Not what was there: somebody may have changed that.
    session.run(schema.migrate())
    fresh = definitions(session, archive.schema)
    _drop_all(session, archive)
    return fresh


def _drop_all(session: Session, archive: Archive) -> None:
    for _, _, command in _things(session, archive.schema):
        session.connection.execute(command)


def _agreed(session: Session, archive: Archive) -> Place:
    """Return where the schema is, or will be: where the dump has it, and where this login looks for it."""
    place = session.place()
    if place.schema is None and place.first_schema is None and archive.schema in _path(place):
        session.command(sql["write_make_schema"], schema=archive.schema)
        place = session.place()
    if (place.schema or place.first_schema) != archive.schema:
        raise BackupFailed(
            f"the dump has its tables in the schema {archive.schema}, and this login's search_path is "
            f"{place.search_path}: let it begin with {archive.schema} (in the DSN: "
            f"options=-csearch_path%3D{archive.schema}); nothing was written"
        )
    return place


def _path(place: Place) -> list[str]:
    names = [name.strip().strip('"') for name in place.search_path.split(",")]
    return [place.login if name == "$user" else name for name in names]


def _things(session: Session, name: str) -> list[tuple[str, str, str]]:
    """Return kind, name and the command that drops it, of everything in a schema that is not an extension's."""
    with session.connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(sql["things"].text, {"schema": name})
        return [(row["kind"], row["name"], row["command"]) for row in rows]


@cache
def _ours() -> frozenset[str]:
    """Return the name of everything that a migration of ours ever made."""
    texts = [migration.text for migration in migrations()] + [schema.sql["create_version_table"].text]
    return frozenset(name for text in texts for name in _CREATE.findall(text))

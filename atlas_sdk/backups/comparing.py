"""Compare what was loaded with what it has to be: rows with the seal, all else with what the migrations make."""

from typing import Final

from psycopg.rows import tuple_row

from atlas_sdk.backups.archive import Archive
from atlas_sdk.backups.session import Session, sql
from atlas_sdk.errors import BackupFailed

__all__ = ["Definitions", "check_copied", "check_definitions", "check_rows", "definitions", "some"]

#: Of everything in a schema, by kind and name.
Definitions = dict[tuple[str, str], str]

_SHOWN: Final = 3


def definitions(session: Session, schema: str) -> Definitions:
    """Return what there is in a schema besides rows."""
    with session.connection.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(sql["definitions"].text, {"schema": schema})
        return {(kind, name): definition for kind, name, definition in rows}


def check_copied(session: Session, archive: Archive, fresh: Definitions, copied: set[str]) -> None:
    """Refuse a dump that left a table of ours out: it would be empty, and nobody would know.

    A table that is not there at all is one of a later version, or is missed by `check_definitions`.
    """
    missing = sorted(
        table.name
        for table in session.tables(archive.schema)
        if ("table", table.name) in fresh and table.name not in copied
    )
    if missing:
        raise BackupFailed(
            f"{archive.file} is damaged, or was made with other options than ours: it has no rows of "
            f"{some(missing)}, not even that there are none; nothing was written"
        )


def check_rows(session: Session, archive: Archive) -> None:
    """Refuse a dump that did not fill the tables with as many rows as its seal says."""
    if archive.seal is None:
        return
    found = {table.name: table.amount for table in session.tables(archive.schema)}
    wanted = archive.seal.rows
    wrong = [
        f"{name}: {found.get(name, 0):,} of {wanted.get(name, 0):,}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if wrong:
        raise BackupFailed(
            f"{archive.file} did not bring the rows that its seal names ({some(wrong)}); nothing was written"
        )


def check_definitions(session: Session, archive: Archive, fresh: Definitions) -> None:
    """Refuse a dump in which something of ours is not what the migrations make of it. What is there besides may be."""
    loaded = definitions(session, archive.schema)
    wrong = [f"{kind} {name}" for (kind, name), wanted in fresh.items() if loaded.get((kind, name)) != wanted]
    if wrong:
        was = (
            "it is damaged, or was changed by hand in the database that was dumped"
            if archive.seal is None
            else "it was changed by hand in the database that was dumped"
        )
        raise BackupFailed(
            f"{archive.file} makes something else than the migrations of AtlasEngine do ({some(wrong)}): {was}, and "
            "what keeps users apart may be off; nothing was written"
        )


def some(names: list[str]) -> str:
    """Return the first few of them, and how many more there are."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")

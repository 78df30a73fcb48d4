"""Compare a loaded database: its rows with the seal, its definitions with those that the migrations make."""

from atlas_sdk._drive.admin import AdminSession
from atlas_sdk.backups.archive import Archive
from atlas_sdk.backups.facts import sql, tables_of
from atlas_sdk.errors import BackupFailed
from atlas_sdk.text import some

__all__ = ["Definitions", "check_copied", "check_definitions", "check_rows", "definitions"]

#: The definitions of all objects in a schema, by kind and name.
Definitions = dict[tuple[str, str], str]


def definitions(session: AdminSession, schema: str) -> Definitions:
    """Return the definition of every object in a schema."""
    return {(row["kind"], row["name"]): row["definition"] for row in session.rows(sql["definitions"], schema=schema)}


def check_copied(session: AdminSession, archive: Archive, fresh: Definitions, copied: set[str]) -> None:
    """Refuse a dump without the rows of one of our tables: the table would be empty, and nobody would know.

    A table that does not exist at all is accepted here: a later version makes it, or `check_definitions` reports it.
    """
    missing = sorted(
        table.name
        for table in tables_of(session, archive.schema)
        if ("table", table.name) in fresh and table.name not in copied
    )
    if missing:
        raise BackupFailed(
            f"{archive.file} is damaged, or was made with other options than ours: it has no rows of "
            f"{some(missing)}, not even that there are none; nothing was written"
        )


def check_rows(session: AdminSession, archive: Archive) -> None:
    """Refuse a dump whose tables do not have the numbers of rows that its seal names."""
    if archive.seal is None:
        return
    found = {table.name: table.amount for table in tables_of(session, archive.schema)}
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


def check_definitions(session: AdminSession, archive: Archive, fresh: Definitions) -> None:
    """Refuse a dump in which one of our objects differs from what the migrations make. Other objects are accepted."""
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

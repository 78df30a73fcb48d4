"""The size limit of the journal, and the rule for the versions that go first.

A full journal drops intermediate versions, the oldest first: never the first or the last of a file, never a checkpoint,
and never a version that a checkpoint names. If that is not enough, the append fails.
"""

import sqlite3
from datetime import datetime

from atlas_sdk.errors import JournalProblem
from atlas_sdk.journal.connection import sql
from atlas_sdk.journal.records import to_microseconds

__all__ = ["make_room"]

#: Free this share of the limit at once: to look for versions reads all records.
_SHARE = 0.1
#: What a record takes in the file beside its content: its other columns and its index entries.
_ROW_BYTES = 512


def make_room(connection: sqlite3.Connection, needed: int, *, limit_bytes: int, now: datetime, path: str) -> None:
    """Make room for `needed` more bytes, inside a transaction. Raises JournalProblem if that is not possible."""
    pages, page_size = connection.execute(sql["used"].text).fetchone()
    excess = pages * page_size + needed - limit_bytes
    if excess <= 0:
        return
    freed = 0
    dropped: list[dict[str, int]] = []
    for seq, size in connection.execute(sql["droppable"].text):
        if freed >= excess + limit_bytes * _SHARE:
            break
        dropped.append({"seq": seq})
        freed += size + _ROW_BYTES
    if freed < excess:
        raise JournalProblem(
            f"the journal {path} is full: it has {limit_bytes:,} bytes of versions that are not in the database yet; "
            "see that the database can be reached",
            path=path,
        )
    connection.executemany(sql["drop"].text, dropped)
    connection.execute(sql["count_dropped"].text, {"versions": len(dropped), "at": to_microseconds(now)})

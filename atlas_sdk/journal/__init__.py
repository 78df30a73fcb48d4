"""The journal of a home: captures that are durable on this machine, and not in the database yet."""

from typing import TYPE_CHECKING

from atlas_sdk.errors import JournalProblem
from atlas_sdk.journal.of_client import ClientJournal
from atlas_sdk.journal.records import JournalStatus, KnownHead, PendingFile, Record

if TYPE_CHECKING:
    from atlas_sdk.journal.store import LIMIT_BYTES, Journal

__all__ = [
    "LIMIT_BYTES",
    "ClientJournal",
    "Journal",
    "JournalProblem",
    "JournalStatus",
    "KnownHead",
    "PendingFile",
    "Record",
]


def __getattr__(name: str) -> object:
    # Import SQLite at the first use, which takes 8 ms: most clients have no journal.
    if name in {"Journal", "LIMIT_BYTES"}:
        from atlas_sdk.journal import store  # noqa: PLC0415

        globals().update(Journal=store.Journal, LIMIT_BYTES=store.LIMIT_BYTES)
        return globals()[name]
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)

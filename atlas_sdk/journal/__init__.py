"""The journal of a home: captures that are durable on this machine, and not in the database yet.

The journal is an SQLite file with a write-ahead log and one fdatasync for each append. An append-only file with
checksums would be less than twice as fast, and would need its own recovery, indexes and locks between processes.
Milliseconds (p50, 400 appends in turn on one disk, 2 cores; the last column is write + fdatasync of the content alone):

    records      SQLite   append-only file   content alone
    1 of 1 KiB     0.52               0.44            0.33
    1 of 8 KiB     0.89               0.54            0.46
    100 of 8 KiB   7.06               5.17            1.40
"""

from importlib import import_module
from typing import TYPE_CHECKING

from atlas_sdk.errors import JournalProblem
from atlas_sdk.journal.of_client import ClientJournal
from atlas_sdk.journal.records import JournalStatus, KnownHead, PendingFile, Record

if TYPE_CHECKING:
    from atlas_sdk.journal.capturing import LocalCapture, capture
    from atlas_sdk.journal.store import LIMIT_BYTES, Journal

__all__ = [
    "LIMIT_BYTES",
    "ClientJournal",
    "Journal",
    "JournalProblem",
    "JournalStatus",
    "KnownHead",
    "LocalCapture",
    "PendingFile",
    "Record",
    "capture",
]


#: The modules that import SQLite, which takes 8 ms. Most clients have no journal.
_MODULE_OF = {"Journal": "store", "LIMIT_BYTES": "store", "LocalCapture": "capturing", "capture": "capturing"}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    globals()[name] = getattr(import_module(f"atlas_sdk.journal.{_MODULE_OF[name]}"), name)
    return globals()[name]

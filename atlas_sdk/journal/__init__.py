"""The journal of a home: captures that are durable on this machine, and not in the database yet."""

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

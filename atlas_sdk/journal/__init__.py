"""The journal of a home: captures that are durable on this machine, and not in the database yet."""

from atlas_sdk.errors import JournalProblem
from atlas_sdk.journal.records import JournalStatus, KnownHead, PendingFile, Record
from atlas_sdk.journal.store import LIMIT_BYTES, Journal

__all__ = ["LIMIT_BYTES", "Journal", "JournalProblem", "JournalStatus", "KnownHead", "PendingFile", "Record"]

"""Backups: dump a database into one file, load it into an empty one.

::

    from atlas_sdk import backups

    backups.dump("monday.dump", "postgresql://ada@db.example/atlas")   # without an address: the embedded database
    backups.load("monday.dump", "postgresql://ada@new.example/atlas")

Both run PostgreSQL's own programs, those of the embedded server or the system's, and block until they are done.
"""

from atlas_sdk.backups.dumping import dump
from atlas_sdk.backups.loading import load
from atlas_sdk.backups.reports import Dumped, Loaded, Progress

__all__ = ["Dumped", "Loaded", "Progress", "dump", "load"]

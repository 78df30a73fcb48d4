"""The daemon's access to the database, which may be out of reach for a while."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from atlas_sdk import Atlas, AtlasError, DatabaseUnreachable, SchemaMismatch, StorageFull
from watcher.status import DatabaseStatus

_log = logging.getLogger(__name__)


def is_away(error: AtlasError) -> bool:
    """Return whether the error is about the database as a whole, so that other statements would fail too."""
    return isinstance(error, (DatabaseUnreachable, StorageFull, SchemaMismatch))


class Database:
    """A client that is opened at its first use, and the last known state of the database."""

    def __init__(self, connect: Callable[[], Atlas]) -> None:
        self._connect = connect
        self._atlas: Atlas | None = None
        self.status = DatabaseStatus(ok=False)

    @property
    def atlas(self) -> Atlas:
        """The client. Raises AtlasError when it cannot be opened."""
        if self._atlas is None:
            self._atlas = self._connect()
        return self._atlas

    def failed(self, error: AtlasError) -> None:
        """Note that the database did not answer. Log the problem, unless the last problem is the same."""
        # The library's message names no command, but who runs the daemon has one.
        can_migrate = isinstance(error, SchemaMismatch) and error.migratable
        problem = f"{error}; run: atlasctl db migrate" if can_migrate else str(error)
        if self.status.ok or self.status.problem != problem:
            _log.warning("%s; changes are saved on this machine until the database is back", problem)
            since = self.status.since if self.status.problem is not None else datetime.now(UTC)
            self.status = DatabaseStatus(ok=False, problem=problem, since=since)

    def answered(self) -> None:
        """Note that the database answered."""
        if not self.status.ok:
            if self.status.problem is not None:
                _log.info("the database is back")
            self.status = DatabaseStatus(ok=True, since=datetime.now(UTC))

    def close(self) -> None:
        """Close the client. The next use would open a new client."""
        if self._atlas is not None:
            self._atlas.close()
            self._atlas = None

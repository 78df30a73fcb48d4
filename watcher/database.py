"""The database as the daemon sees it: away now and then, and back."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from atlas_sdk import Atlas, AtlasError, DatabaseUnreachable, SchemaMismatch, StorageFull
from watcher.debounce import Timing
from watcher.status import DatabaseStatus

__all__ = ["Database", "is_away"]

_log = logging.getLogger(__name__)


def is_away(error: AtlasError) -> bool:
    """Tell whether an error is about the database as a whole, so that nothing else would succeed now."""
    return isinstance(error, (DatabaseUnreachable, StorageFull, SchemaMismatch))


class Database:
    """A client that is opened when it is needed, and when to try again after it failed."""

    def __init__(self, connect: Callable[[], Atlas], *, timing: Timing) -> None:
        self._connect = connect
        self._timing = timing
        self._atlas: Atlas | None = None
        self._pause_s = timing.retry_s
        #: Not to be asked before this time.
        self.retry_at = 0.0
        self.status = DatabaseStatus(ok=False)

    @property
    def atlas(self) -> Atlas:
        """The client. Raises AtlasError when it cannot be opened."""
        if self._atlas is None:
            self._atlas = self._connect()
        return self._atlas

    def failed(self, error: AtlasError, now: float) -> None:
        """Note that it did not answer; log it when that is news."""
        if self.status.ok or self.status.problem != str(error):
            _log.warning("%s; changes are stored when the database is back", error)
            since = self.status.since if self.status.problem is not None else datetime.now(UTC)
            self.status = DatabaseStatus(ok=False, problem=str(error), since=since)
        self.retry_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, self._timing.retry_most_s)

    def succeeded(self) -> None:
        """Note that it answered."""
        if not self.status.ok:
            if self.status.problem is not None:
                _log.info("the database is back")
            self.status = DatabaseStatus(ok=True, since=datetime.now(UTC))
        self.retry_at = 0.0
        self._pause_s = self._timing.retry_s

    def close(self) -> None:
        """Leave the database."""
        if self._atlas is not None:
            self._atlas.close()
            self._atlas = None

"""A client's view of the journal of its home. It never makes one, and costs a system call while there is none."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from atlas_sdk.errors import JournalProblem
from atlas_sdk.journal.records import FOLDER, NAME

if TYPE_CHECKING:
    from atlas_sdk.journal.store import Journal

__all__ = ["ClientJournal"]

_log = logging.getLogger(__name__)


class ClientJournal:
    """The journal of a client's home, if there is one; `home` None stands for a client without a home."""

    def __init__(self, home: Path | None = None) -> None:
        self._home = home
        self._path = None if home is None else os.path.join(home, FOLDER, NAME)  # noqa: PTH118  # for `os.access`
        self._journal: Journal | None = None
        self._warned = ""

    def is_empty(self) -> bool:
        """Return whether there is no record to deliver. Writers ask this before each write.

        A journal that cannot be read counts as empty, with a warning: it must not stop the writers of this home.
        """
        # Without a home or a journal there is nothing to deliver. `os.access` takes 1 µs; a failing `os.stat`, 5 µs.
        if self._path is None or (self._journal is None and not os.access(self._path, os.F_OK)):
            return True
        try:
            journal = self.find()
            return journal is None or journal.is_empty()
        except JournalProblem as problem:
            self._warn(problem)
            return True

    def find(self) -> "Journal | None":
        """Return the journal; None if there is none. Raises JournalProblem."""
        if self._journal is None and self._home is not None:
            from atlas_sdk.journal.store import Journal  # noqa: PLC0415  # most clients have no journal

            self._journal = Journal.existing(self._home)
        return self._journal

    def _warn(self, problem: JournalProblem) -> None:
        if str(problem) != self._warned:
            self._warned = str(problem)
            _log.warning("%s; versions in it are not delivered", problem)

    def close(self) -> None:
        """Close the journal. Idempotent."""
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()

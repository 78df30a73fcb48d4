"""One process of the race, which runs jobs until it is told to stop or killed."""

import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from atlas_sdk import Atlas, DatabaseUnreachable, User
from benchmarks.race_quotas.jobs import Jobs
from benchmarks.race_quotas.journal import Journal

#: Seconds in which a worker must connect. A crashed server starts again after a moment, and replays its log.
_DOWN_S = 30.0
_NICE = 5


class Told:
    """A flag that is set after SIGTERM, or after the end of the parent process."""

    def __init__(self) -> None:
        self._stop = False
        # Workers must not starve the watcher.
        os.nice(_NICE)
        self._parent = os.getppid()
        signal.signal(signal.SIGTERM, self._hear)
        # Ctrl-C goes to all processes of a terminal; the race stops its workers itself.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True

    def __bool__(self) -> bool:
        return self._stop or os.getppid() != self._parent


def work(dsn: str, users: Sequence[User], seed: str, folder: Path) -> None:
    """Run jobs. Write errors to `<seed>.err`, and set the exit code."""
    told = Told()
    journal = Journal(folder / f"{seed}.jsonl")
    sys.stderr = (folder / f"{seed}.err").open("w", encoding="utf-8", buffering=1)
    with _open(dsn) as atlas:
        jobs = Jobs(atlas, users, random.Random(seed), journal)
        while not told:
            jobs.one()
        jobs.close()


def _open(dsn: str) -> Atlas:
    """Connect; try again while the server is down."""
    deadline = time.monotonic() + _DOWN_S
    while True:
        try:
            return Atlas.open(dsn, pool_max=2, prepare_statements=True)
        except DatabaseUnreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)

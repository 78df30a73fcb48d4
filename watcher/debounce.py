"""Decide when to read a changed file, with a table of times. Nothing here reads a clock or a file."""

import heapq
import math
from enum import Enum
from uuid import UUID

from attrs import evolve, frozen

#: A project and a path in it; the path `""` asks for a scan of the whole project.
Key = tuple[UUID, str]


class ChangeKind(Enum):
    """The kind of a change, as far as it is known without reading the file."""

    #: A program closed the file after writing, or renamed it to this name: the content is most likely complete.
    CLOSED = "closed"
    #: The file was made or written, or its mode changed; more writes may follow.
    CHANGED = "changed"
    #: The name is gone; an editor may put it back in a moment.
    VANISHED = "vanished"
    #: A scan found a difference. There was no event, so there is no writer to wait for.
    FOUND = "found"


@frozen(kw_only=True)
class Timing:
    """The waiting times of the daemon, in seconds."""

    #: After a close or rename: of two quick saves, usually only the second one must be stored.
    closed_s: float = 0.05
    #: After a write: a close or another write usually follows.
    changed_s: float = 0.25
    #: After a deletion: an editor that deletes a file and writes it again needs less time, and the daemon must not
    #: store such a deletion.
    vanished_s: float = 0.6
    #: The longest time between two reads of a file that is written without a pause.
    longest_s: float = 2.0
    #: Between two sweeps. A sweep finds changes that no event reports: through a hard link, on a network file system,
    #: or by another client of the database.
    sweep_s: float = 60.0
    #: Between two comparisons of a folder that cannot be watched.
    poll_s: float = 2.0
    #: Between two looks at the mounts, if the worker is awake. A mount over a watched folder hides it without an event.
    mounts_s: float = 2.0
    #: Between two checks whether a lost project is back.
    lost_s: float = 0.5
    #: A new folder without memory files in a project's place counts as the mount point of an unmounted disk for this
    #: long, and then as the project.
    replaced_s: float = 120.0
    #: Between two reads of the list of registered projects.
    projects_s: float = 2.0
    #: The same while notifications of the database tell of changes.
    projects_heard_s: float = 30.0
    #: Between two writes of the status file: `status_s` if there is news, `heartbeat_s` if not.
    status_s: float = 1.0
    heartbeat_s: float = 10.0
    #: The longest time between two writes of a status that is expensive to write. It is less than `status.FRESH_S`,
    #: because a daemon with an older status counts as hung.
    heartbeat_most_s: float = 20.0
    #: Between two attempts to reach the database, or to write the journal: first `retry_s`, then doubled each time up
    #: to `retry_most_s`.
    retry_s: float = 0.25
    retry_most_s: float = 5.0
    #: Between two looks for records that other processes have put into the journal.
    journal_s: float = 1.0
    #: Before the first check whether maintenance is due, and between two checks: 0.5 to 1.5 times this long.
    maintenance_first_s: float = 120.0
    maintenance_s: float = 900.0
    #: After SIGTERM, for putting the remaining changes into the journal and for delivering them. The scan of the next
    #: start finds what is not in the journal, and the next start delivers what is.
    drain_s: float = 5.0

    def settle_s(self, change: ChangeKind) -> float:
        """Return the seconds to wait after a change of this kind."""
        if change is ChangeKind.FOUND:
            return 0.0
        if change is ChangeKind.CLOSED:
            return self.closed_s
        return self.changed_s if change is ChangeKind.CHANGED else self.vanished_s


@frozen(kw_only=True)
class Due:
    """A path that the worker must look at."""

    key: Key
    #: The last change. A missing file counts as deleted only after the change `VANISHED`.
    change: ChangeKind
    #: The time of the first change since the worker last looked, and the time to look again.
    first: float
    at: float


class Debouncer:
    """A table of the paths to look at, each with its time. Not thread-safe; the caller passes the present time.

    The last change decides how long to wait. No file waits longer than `longest_s` after its first change, except a
    file that vanished, because there is nothing to read.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._pending: dict[Key, Due] = {}
        #: The time of the one valid heap entry of each key. This time may be before the key is due; `next_at` then
        #: replaces the entry when it is the first of the heap. With a new entry for every change, a busy writer would
        #: make the heap grow.
        self._queued: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []

    def __len__(self) -> int:
        return len(self._pending)

    def waiting(self) -> dict[Key, float]:
        """Return the paths that wait, each with the time of its first change."""
        return {key: due.first for key, due in self._pending.items()}

    def mark(self, key: Key, change: ChangeKind, now: float) -> float:
        """Note a change; return the time at which the key is due."""
        before = self._pending.get(key)
        if before is not None and change is ChangeKind.FOUND:
            # Keep the time of the earlier event, which shows better than a scan when the writer is done.
            return before.at
        at = now + self._timing.settle_s(change)
        if before is not None and change is not ChangeKind.VANISHED:
            at = min(at, before.first + self._timing.longest_s)
        self._enter(Due(key=key, change=change, first=now if before is None else before.first, at=at))
        return at

    def put_back(self, due: Due, at: float) -> None:
        """Put back a path that the worker could not handle, unless the path was marked again meanwhile."""
        if due.key not in self._pending:
            self._enter(evolve(due, at=at))

    def next_at(self) -> float | None:
        """Return the time at which the next path is due; None when no path waits."""
        while self._heap:
            at, key = self._heap[0]
            due = self._pending.get(key)
            if self._queued.get(key) == at:
                if due is not None and due.at <= at:
                    return at
                del self._queued[key]
                if due is not None:
                    self._queue(due)
            heapq.heappop(self._heap)
        return None

    def pop(self, now: float) -> Due | None:
        """Remove and return the path that is due first; return None when no path is due."""
        at = self.next_at()
        if at is None or at > now:
            return None
        _, key = heapq.heappop(self._heap)
        del self._queued[key]
        return self._pending.pop(key)

    def forget(self, project: UUID) -> None:
        """Drop every path of a project."""
        for key in [key for key in self._pending if key[0] == project]:
            del self._pending[key]

    def _enter(self, due: Due) -> None:
        self._pending[due.key] = due
        self._queue(due)

    def _queue(self, due: Due) -> None:
        if due.at < self._queued.get(due.key, math.inf):
            self._queued[due.key] = due.at
            heapq.heappush(self._heap, (due.at, due.key))

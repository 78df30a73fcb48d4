"""Decide when a changed file is read: a pure table of times."""

import heapq
import math
from enum import Enum
from uuid import UUID

from attrs import evolve, frozen

__all__ = ["ChangeKind", "Debouncer", "Due", "Key", "Timing"]

#: A project and a path in it; the path `""` stands for the whole project: it is to be scanned.
Key = tuple[UUID, str]


class ChangeKind(Enum):
    """The kind of a change, as far as it is known without reading the file."""

    #: A writer closed it, or it was renamed to this name: most likely complete.
    CLOSED = "closed"
    #: It was made, written or changed its mode, and more may follow.
    CHANGED = "changed"
    #: The name is gone; an editor may be about to put it back.
    VANISHED = "vanished"
    #: A scan saw it differ from what is stored: no event, no reason to wait.
    FOUND = "found"


@frozen(kw_only=True)
class Timing:
    """The waiting times of the daemon, in seconds."""

    #: Between close or rename and reading: the second of two quick saves is usually the one to keep.
    closed_s: float = 0.05
    #: After a write: the close follows, or the next write.
    changed_s: float = 0.25
    #: Editors that delete and write again need less; a tombstone in between would be wrong.
    vanished_s: float = 0.6
    #: A file that is written without a pause is read this often all the same.
    longest_s: float = 2.0
    #: What no event tells (hard links, network file systems, another client's version) is seen after this.
    sweep_s: float = 60.0
    #: Folders that cannot be watched are looked at this often.
    poll_s: float = 2.0
    #: Projects whose folder is gone.
    lost_s: float = 0.5
    #: Another folder in a project's place, without any memory file: an unmounted disk until this much later.
    replaced_s: float = 120.0
    #: The list of registered projects.
    projects_s: float = 2.0
    #: The status file: not more often than the first, not less often than the second.
    status_s: float = 1.0
    heartbeat_s: float = 10.0
    #: Not even when it is expensive: a status older than `status.FRESH_S` is that of a daemon that hangs.
    heartbeat_most_s: float = 20.0
    #: Between attempts to reach the database: from the first to the second, doubling.
    retry_s: float = 0.25
    retry_most_s: float = 5.0
    #: Whether maintenance is due is asked for the first time this long after the start, and then again and again;
    #: between half of it and half as much again.
    maintenance_first_s: float = 120.0
    maintenance_s: float = 900.0
    #: SIGTERM: what is not stored after this is left to the next start, which finds it by scanning.
    drain_s: float = 10.0

    def settle_s(self, change: ChangeKind) -> float:
        """Return how long to wait after such a change."""
        if change is ChangeKind.FOUND:
            return 0.0
        if change is ChangeKind.CLOSED:
            return self.closed_s
        return self.changed_s if change is ChangeKind.CHANGED else self.vanished_s


@frozen(kw_only=True)
class Due:
    """One thing to look at."""

    key: Key
    #: The last change: whether a missing file has been missing long enough.
    change: ChangeKind
    #: When the first change since the last look came, and when to look.
    first: float
    at: float


class Debouncer:
    """A table of the files and projects to read, and when. Not thread-safe; the caller passes the time.

    The last change decides how long to wait. No file waits longer than `longest_s` after its first change, except one
    that vanished: there is nothing to read.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._pending: dict[Key, Due] = {}
        #: When each key comes up, at or before its time: moved on then, for a busy writer must not grow the heap.
        self._queued: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, key: object) -> bool:
        return key in self._pending

    def mark(self, key: Key, change: ChangeKind, now: float) -> float:
        """Note a change; return when the key is due."""
        before = self._pending.get(key)
        if before is not None and change is ChangeKind.FOUND:
            # An event knows better when its writer is done.
            return before.at
        at = now + self._timing.settle_s(change)
        if before is not None and change is not ChangeKind.VANISHED:
            at = min(at, before.first + self._timing.longest_s)
        self._enter(Due(key=key, change=change, first=now if before is None else before.first, at=at))
        return at

    def put_back(self, due: Due, at: float) -> None:
        """Take something back that could not be done; what was marked meanwhile stands."""
        if due.key not in self._pending:
            self._enter(evolve(due, at=at))

    def next_at(self) -> float | None:
        """Return when the next thing is due; None when there is nothing."""
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
        """Take out what is due, the earliest first."""
        at = self.next_at()
        if at is None or at > now:
            return None
        _, key = heapq.heappop(self._heap)
        del self._queued[key]
        return self._pending.pop(key)

    def forget(self, project: UUID) -> None:
        """Drop everything of a project."""
        for key in [key for key in self._pending if key[0] == project]:
            del self._pending[key]

    def _enter(self, due: Due) -> None:
        self._pending[due.key] = due
        self._queue(due)

    def _queue(self, due: Due) -> None:
        if due.at < self._queued.get(due.key, math.inf):
            self._queued[due.key] = due.at
            heapq.heappush(self._heap, (due.at, due.key))

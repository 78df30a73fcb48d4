"""Decide when the worker does each task, with a table of times and of the work that waits for its turn.

The caller passes the time; nothing here reads a clock or a file. Files that changed are not in this table: they wait in
the `EventQueue`, and its `Debouncer` decides when they are due.
"""

import math
from collections import deque
from collections.abc import Collection, Iterator
from itertools import islice
from uuid import UUID

from watcher.debounce import Timing

#: The most projects to compare by `stat` in one batch, which takes some milliseconds.
_BATCH = 20
#: The time between two rounds of polling, for each polled project: ten times what comparing one takes, so that polling
#: takes a tenth of a core at most.
_POLL_S = 0.0005
#: A task that is repeated may use this share of one core's time at most.
_SHARE = 0.005


class Scheduler:
    """The table of the worker's tasks, and of the times when they are due.

    `scans` and `sweep` yield the items of one batch. An item stays in its list until the caller asks for the next item.
    So if the work on an item raises an error, a later batch yields this item again.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        #: Infinite at first: no sweep begins before the projects are known.
        self._sweep_at = math.inf
        self._poll_at = 0.0
        self._lost_at = 0.0
        self._mounts_at = 0.0
        self._status_at = 0.0
        self._heartbeat_at = 0.0
        #: True when the status differs from the one that was written last.
        self.news = True
        self._to_scan: dict[UUID, None] = {}
        self._to_sweep: deque[UUID] = deque()
        self._to_poll: deque[UUID] = deque()
        self._lost: set[UUID] = set()
        self._unwatched: set[UUID] = set()

    @property
    def has_scans(self) -> bool:
        """True when a scan waits."""
        return bool(self._to_scan)

    @property
    def has_backlog(self) -> bool:
        """True when a scan or a sweep waits."""
        return bool(self._to_scan or self._to_poll or self._to_sweep)

    def next_at(self, now: float) -> float:
        """Return the time at which the next task is due. A file that changes may be due earlier."""
        times = [self._heartbeat_at, self._status_at if self.news else math.inf, self._sweep_at]
        if self.has_backlog:
            times.append(now)
        times.append(self._lost_at if self._lost else math.inf)
        times.append(self._poll_at if self._unwatched else math.inf)
        return min(times)

    # Projects.

    def started(self, now: float) -> None:
        """Note that the projects are known. The first sweep is due a while later."""
        if self._sweep_at == math.inf:
            self._sweep_at = now + self._timing.sweep_s

    def forget(self, project: UUID) -> None:
        """Drop everything about a project."""
        self._to_scan.pop(project, None)
        for projects in (self._lost, self._unwatched):
            projects.discard(project)

    def lost(self, project: UUID) -> None:
        """Note that a project's folder is out of reach. From now on, check whether it is back, and do not poll it."""
        self._lost.add(project)
        self._unwatched.discard(project)

    def found(self, project: UUID, *, unwatched: bool) -> None:
        """Note that a project was scanned. Poll it if it is `unwatched`: it has a folder that cannot be watched."""
        self._lost.discard(project)
        (self._unwatched.add if unwatched else self._unwatched.discard)(project)

    def lost_projects(self, now: float) -> tuple[UUID, ...]:
        """Return the lost projects if it is time to check whether they are back, else ()."""
        if now < self._lost_at:
            return ()
        self._lost_at = now + self._timing.lost_s
        return tuple(self._lost)

    def is_mount_due(self, now: float) -> bool:
        """Return whether to look at the mounts, and plan the next look."""
        if now < self._mounts_at:
            return False
        self._mounts_at = now + self._timing.mounts_s
        return True

    # Scans.

    def request_scan(self, *projects: UUID) -> None:
        """Plan a scan of these projects as soon as possible."""
        self._to_scan.update(dict.fromkeys(projects))

    def scans(self) -> Iterator[UUID]:
        """Yield the next project to scan, if there is one."""
        for project in tuple(islice(self._to_scan, 1)):
            yield project
            self._to_scan.pop(project, None)

    # Sweeps.

    def begin_sweep(self, now: float, projects: Collection[UUID]) -> None:
        """Begin a sweep over all projects when one is due."""
        if now >= self._sweep_at:
            self._sweep_at = now + self._timing.sweep_s
            self._to_sweep = deque(projects)

    def sweep(self, now: float) -> Iterator[UUID]:
        """Yield projects to compare by `stat`, first those with folders that are polled."""
        if now >= self._poll_at:
            self._poll_at = now + max(self._timing.poll_s, len(self._unwatched) * _POLL_S)
            self._to_poll.extend(self._unwatched.difference(self._to_poll))
        yield from _batch(self._to_poll, _BATCH)
        yield from _batch(self._to_sweep, _BATCH)

    # The status.

    def report_now(self) -> None:
        """Make the status due at once."""
        self._heartbeat_at = 0.0

    def is_status_due(self, now: float) -> bool:
        """Return whether to write the status: soon after news, and at longer intervals without news."""
        return now >= self._heartbeat_at or (self.news and now >= self._status_at)

    def reported(self, now: float, *, cpu_s: float) -> None:
        """Note that the status was written. The CPU time of this write delays the next one."""
        timing = self._timing
        self.news = False
        self._status_at = now + max(timing.status_s, cpu_s / _SHARE / 4)
        self._heartbeat_at = now + min(max(timing.heartbeat_s, cpu_s / _SHARE), timing.heartbeat_most_s)


def _batch(waiting: deque[UUID], size: int) -> Iterator[UUID]:
    for _ in range(min(size, len(waiting))):
        yield waiting[0]
        waiting.popleft()

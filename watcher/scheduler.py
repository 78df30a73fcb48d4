"""Decide when the worker does each task, with a table of times and of the work that waits for its turn.

The caller passes the time; nothing here reads a clock, a file or the database. Files that changed are not in this
table: they wait in the `EventQueue`, and its `Debouncer` decides when they are due.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from uuid import UUID

from watcher.debounce import Timing

#: The most projects to compare by `stat` in one batch, and the most users to measure: a batch takes some milliseconds.
_BATCH = 20
#: A task that is repeated may use this share of one core's time at most.
_SHARE = 0.005


class Scheduler:
    """The table of the worker's tasks, and of the times when they are due.

    `scans`, `sweep` and `users_to_measure` yield the items of one batch. An item stays in its list until the caller
    asks for the next item. So if the work on an item raises an error, a later batch yields this item again.
    """

    def __init__(self, timing: Timing, *, jitter: Callable[[], float] = random.random) -> None:
        self._timing = timing
        self._jitter = jitter
        self._projects_at = 0.0
        #: Infinite at first: no sweep begins before the projects are known.
        self._sweep_at = math.inf
        self._compare_at = 0.0
        self._poll_at = 0.0
        self._lost_at = 0.0
        self._status_at = 0.0
        self._heartbeat_at = 0.0
        self._maintenance_at = math.inf
        self._pause_s = timing.retry_s
        #: The worker does not ask the database before this time.
        self.retry_at = 0.0
        #: True when the status differs from the one that was written last.
        self.news = True
        self._to_scan: dict[UUID, None] = {}
        self._to_sweep: deque[UUID] = deque()
        #: Projects that this sweep still has to compare with the database.
        self._to_compare: set[UUID] = set()
        self._lost: set[UUID] = set()
        self._unwatched: set[UUID] = set()
        #: Users with new versions since the last sweep, and users whose memory this sweep still has to measure.
        self._grown: set[UUID] = set()
        self._to_measure: deque[UUID] = deque()

    @property
    def has_backlog(self) -> bool:
        """True when a scan, a sweep or a measurement waits."""
        return bool(self._to_scan or self._to_sweep or self._to_measure)

    def next_at(self, now: float) -> float:
        """Return the time at which the next task is due. A file that changes may be due earlier."""
        times = [self._heartbeat_at, self._status_at if self.news else math.inf]
        if now < self.retry_at:
            return min(*times, self.retry_at)
        times += [self._projects_at, self._sweep_at, self._maintenance_at]
        times.append(self._lost_at if self._lost else math.inf)
        times.append(self._poll_at if self._unwatched else math.inf)
        return min(times)

    # The database.

    def database_failed(self, now: float) -> None:
        """Delay the next question to the database, by a pause that doubles with each failure."""
        self.retry_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, self._timing.retry_most_s)

    def database_answered(self) -> None:
        """Note that the database has answered, so that no pause before the next question is needed."""
        self.retry_at = 0.0
        self._pause_s = self._timing.retry_s

    # Projects.

    def is_listing_due(self, now: float) -> bool:
        """Return whether it is time to read the list of projects."""
        return now >= self._projects_at

    def list_now(self) -> None:
        """Make the list of projects due at once, and with it the next question to a database that was away."""
        self._projects_at = 0.0
        self.retry_at = 0.0

    def listed(self, now: float, *, cpu_s: float) -> None:
        """Note that the list of projects was read. The CPU time of this read delays the next one."""
        self._projects_at = now + max(self._timing.projects_s, cpu_s / _SHARE)
        if self._sweep_at == math.inf:
            self._sweep_at = now + self._timing.sweep_s

    def forget(self, project: UUID) -> None:
        """Drop everything about a project."""
        self._to_scan.pop(project, None)
        for projects in (self._lost, self._unwatched, self._to_compare):
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
            if now >= self._compare_at:
                self._to_compare = set(projects)
            self._measure_grown()

    def sweep(self, now: float) -> Iterator[UUID]:
        """Yield projects to compare by `stat`, first those with folders that cannot be watched."""
        if now >= self._poll_at:
            self._poll_at = now + self._timing.poll_s
            self._to_sweep.extendleft(self._unwatched)
        yield from _batch(self._to_sweep, _BATCH)

    def is_comparison_due(self, project: UUID) -> bool:
        """Return whether this sweep still has to compare a project with the database."""
        return project in self._to_compare

    def compared(self, project: UUID, now: float, *, cpu_s: float) -> None:
        """Note that a project was compared. The CPU time of this delays the next comparison of all projects."""
        self._to_compare.discard(project)
        self._compare_at = max(self._compare_at, now) + cpu_s / _SHARE

    def grew(self, user: UUID) -> None:
        """Note that a user has a new version: the next sweep measures the user's memory."""
        self._grown.add(user)

    def users_to_measure(self, *, last: bool = False) -> Iterator[UUID]:
        """Yield the next users whose memory the worker must measure; with `last`, yield all of them."""
        if last:
            self._measure_grown()
        yield from _batch(self._to_measure, len(self._to_measure) if last else _BATCH)

    def _measure_grown(self) -> None:
        self._to_measure.extend(self._grown.difference(self._to_measure))
        self._grown.clear()

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

    # Maintenance.

    def plan_maintenance(self, now: float, *, first: bool = False) -> None:
        """Set the next time to ask whether maintenance is due: at random, so that not all watchers ask at once."""
        wait_s = self._timing.maintenance_first_s if first else self._timing.maintenance_s
        self._maintenance_at = now + wait_s * (0.5 + self._jitter())

    def take_maintenance(self, now: float) -> bool:
        """Return whether to begin maintenance. After True, return False until `plan_maintenance` sets a new time."""
        if now < self._maintenance_at:
            return False
        self._maintenance_at = math.inf
        return True


def _batch(waiting: deque[UUID], size: int) -> Iterator[UUID]:
    for _ in range(min(size, len(waiting))):
        yield waiting[0]
        waiting.popleft()

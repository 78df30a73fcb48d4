"""Decide when the daemon does each task that needs the database, with a table of times.

The caller passes the time; nothing here reads a clock or asks the database.
"""

import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from uuid import UUID

from watcher.debounce import Timing

#: The most projects of one comparison, and the most users to measure in one batch.
_COMPARED, _MEASURED = 200, 20
#: A task that is repeated may use this share of one core's time at most.
_SHARE = 0.005
#: The same for the list of projects while it changes all the time: a list of 10,000 takes 0.1 s of CPU time, so a new
#: project is known within half a second.
_TOLD_SHARE = 0.25


class DatabaseSchedule:
    """The table of the tasks that need the database, and of the times when they are due."""

    def __init__(self, timing: Timing, *, jitter: Callable[[], float] = random.random) -> None:
        self._timing = timing
        self._jitter = jitter
        self._pause_s = timing.retry_s
        #: The database is not asked before this time.
        self.retry_at = 0.0
        self._list_at = 0.0
        #: The list is not read again before this time, however many changes are told.
        self._list_not_before = 0.0
        self._compare_at: float | None = None
        self._measure_at: float | None = None
        self._maintain_at: float | None = None
        self._to_compare: deque[UUID] = deque()
        self._doubtful: dict[UUID, None] = {}
        self._doubtful_at = 0.0
        #: Users with new versions since the last measurement, and users whose memory is measured now.
        self._grown: set[UUID] = set()
        self._to_measure: deque[UUID] = deque()

    def next_at(self, now: float) -> float:
        """Return the time at which the next task is due: at the latest after `journal_s`, to look at the journal.

        Tasks that may be a second late have no time of their own.
        """
        if now < self.retry_at:
            return self.retry_at
        times = [now + self._timing.journal_s, self._list_at]
        if self._to_compare or self._to_measure:
            times.append(now)
        return min(times)

    def failed(self, now: float) -> None:
        """Delay the next question to the database, by a pause that doubles with each failure."""
        self.retry_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, self._timing.retry_most_s)

    def answered(self) -> None:
        """Note that the database has answered, so that no pause before the next question is needed."""
        self.retry_at = 0.0
        self._pause_s = self._timing.retry_s

    # The list of projects.

    def list_now(self) -> None:
        """Make the list of projects due, soon after the last reading."""
        self._list_at = min(self._list_at, self._list_not_before)

    def is_listing_due(self, now: float) -> bool:
        """Return whether it is time to read the list of projects."""
        return now >= self._list_at

    def listed(self, now: float, *, cpu_s: float, is_told: bool = False) -> None:
        """Note that the list of projects was read. The CPU time of this read delays the next one.

        `is_told` says that somebody calls `list_now` after a change.
        """
        pause_s = self._timing.projects_heard_s if is_told else self._timing.projects_s
        self._list_at = now + max(pause_s, cpu_s / _SHARE)
        self._list_not_before = now + cpu_s / _TOLD_SHARE
        if self._measure_at is None:
            self._measure_at = now + self._timing.sweep_s

    # Comparisons of the daemon's knowledge with the database.

    def compare_from(self, now: float) -> None:
        """Make the first comparison of all projects due."""
        self._compare_at = now

    def doubt(self, projects: Iterable[UUID]) -> None:
        """Plan a comparison of these projects soon."""
        self._doubtful.update(dict.fromkeys(projects))

    def begin_comparison(self, now: float, projects: Collection[UUID]) -> None:
        """Begin a comparison of all projects when one is due."""
        if self._compare_at is not None and now >= self._compare_at and not self._to_compare:
            self._compare_at = now + self._timing.sweep_s
            self._to_compare = deque(projects)

    def to_compare(self, now: float) -> tuple[UUID, ...]:
        """Return the projects to compare next, first those in doubt. They stay in the list until `compared`."""
        doubtful = tuple(islice(self._doubtful, _COMPARED)) if now >= self._doubtful_at else ()
        return doubtful or tuple(islice(self._to_compare, _COMPARED))

    def compared(self, projects: Collection[UUID], now: float, *, cpu_s: float) -> None:
        """Note that projects were compared. The CPU time of this delays the next comparisons."""
        done = set(projects)
        for project in done:
            self._doubtful.pop(project, None)
        self._to_compare = deque(one for one in self._to_compare if one not in done)
        self._doubtful_at = now + cpu_s / _SHARE
        if self._compare_at is not None:
            self._compare_at = max(self._compare_at, now) + cpu_s / _SHARE

    # Memory of users.

    def grew(self, users: Iterable[UUID]) -> None:
        """Note that users have new versions: their memory is measured within `sweep_s`."""
        self._grown.update(users)

    def users_to_measure(self, now: float, *, last: bool = False) -> Iterator[UUID]:
        """Yield the next users whose memory to measure; with `last`, yield all of them.

        A user stays in the list until the caller asks for the next one, so a failure loses none.
        """
        if last or (self._measure_at is not None and now >= self._measure_at):
            self._to_measure.extend(self._grown.difference(self._to_measure))
            self._grown.clear()
            self._measure_at = now + self._timing.sweep_s
        for _ in range(len(self._to_measure) if last else min(_MEASURED, len(self._to_measure))):
            yield self._to_measure[0]
            self._to_measure.popleft()

    # Maintenance.

    def plan_maintenance(self, now: float, *, first: bool = False) -> None:
        """Set the next time to ask whether maintenance is due: at random, so that not all watchers ask at once."""
        wait_s = self._timing.maintenance_first_s if first else self._timing.maintenance_s
        self._maintain_at = now + wait_s * (0.5 + self._jitter())

    def is_maintenance_due(self, now: float) -> bool:
        """Return whether to begin maintenance."""
        return self._maintain_at is not None and now >= self._maintain_at

    def began_maintenance(self) -> None:
        """Note that maintenance runs; it is not due again until `plan_maintenance`."""
        self._maintain_at = None

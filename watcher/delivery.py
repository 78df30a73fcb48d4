"""The thread that uses the database: it delivers the journal, so that no capture waits for the database."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Protocol
from uuid import UUID

from atlas_sdk import Atlas, AtlasError, Project, Snapshot
from atlas_sdk.journal import Journal, JournalProblem, KnownHead
from watcher.comparison import newest_heads
from watcher.database import Database, is_away
from watcher.database_schedule import DatabaseSchedule
from watcher.maintenance import MaintenanceRunner
from watcher.projects_listener import ProjectsListener

_log = logging.getLogger(__name__)

#: The most records of one call: between two calls, the thread does its other tasks.
_RECORDS = 500


class Observer(Protocol):
    """The worker, as far as the delivery thread needs it. The calls must come from the worker's thread."""

    def listed(self, projects: Sequence[Project], heads: Mapping[UUID, Sequence[KnownHead]]) -> None:
        """Take the list of the registered projects, and the files of those that are new."""

    def delivered(self) -> None:
        """Note that the numbers of the delivery or the state of the database have changed."""

    def compare(self, versions: Mapping[UUID, Sequence[Snapshot]], began: datetime) -> None:
        """Compare projects with their newest versions in the database, as they were at the time `began`."""


class DeliveryThread:
    """Everything that the daemon asks the database: delivery, the list of projects, comparisons, memory, maintenance.

    `run` is the thread. Any thread may call the methods in the first part; they never block.
    """

    def __init__(
        self,
        *,
        database: Database,
        journal: Journal,
        schedule: DatabaseSchedule,
        clock: Callable[[], float],
        post: Callable[[Callable[[], None]], None],
        maintenance: MaintenanceRunner | None = None,
        known: Collection[UUID] = (),
        listens: bool = False,
    ) -> None:
        """Use `post` to call the observer in the worker's thread. `known` are the projects of the journal."""
        self._database = database
        self._journal = journal
        self._schedule = schedule
        self._clock = clock
        self._post = post
        self._maintenance = maintenance
        self._listener, self._listens = ProjectsListener(self.list_soon), listens
        self.observer: Observer | None = None
        if maintenance is not None:
            schedule.plan_maintenance(clock(), first=True)
        self._changed = threading.Condition()
        #: What other threads ask for.
        self._woken = False
        self._grown: set[UUID] = set()
        self._doubtful: set[UUID] = set()
        self._untidy: set[UUID] = set()
        self._compares_all = False
        self._lists = False
        self._then: list[Callable[[], None]] = []
        self._deadline: float | None = None
        #: What this thread knows.
        self._projects: dict[UUID, Project] = {}
        self._is_listed = False
        self._known: set[UUID] = set(known)
        self._to_tidy: deque[UUID] = deque()
        self._problems: dict[str, None] = {}
        self._stumbled_at = ""
        #: The number of records that were delivered since the start, and of errors.
        self.delivered = 0
        self.errors = 0

    # Any thread may call the methods below.

    def appended(self, users: Iterable[UUID]) -> None:
        """Note that the journal has new versions of these users."""
        with self._changed:
            self._grown.update(users)
            self._wake()

    def compare_soon(self, project: UUID) -> None:
        """Ask for a comparison of a project with the database."""
        with self._changed:
            self._doubtful.add(project)

    def compare_all(self) -> None:
        """Ask for a comparison of every project, and for one every `sweep_s` from now on."""
        with self._changed:
            self._compares_all = True
            self._wake()

    def tidy(self, project: UUID) -> None:
        """Ask for the removal of the temporary files that a killed restore has left."""
        with self._changed:
            self._untidy.add(project)
            self._wake()

    def list_soon(self, then: Callable[[], None] | None = None) -> None:
        """Ask for the list of projects: there may be a new one. `then` is called after the next attempt to read it."""
        with self._changed:
            self._lists = True
            if then is not None:
                self._then.append(then)
            self._wake()

    def stop(self, deadline: float) -> None:
        """Deliver what is left until this time, by the daemon's clock, and end."""
        self._listener.stop()
        with self._changed:
            self._deadline = deadline
            self._wake()

    def _wake(self) -> None:
        self._woken = True
        self._changed.notify()

    # Only the delivery thread calls the methods below.

    def run(self) -> None:
        """Work until `stop`."""
        while self._deadline is None:
            try:
                at = self.step()
            except Exception as error:  # noqa: BLE001 - without this thread nothing is delivered
                self._stumbled(error)
                self._schedule.failed(self._clock())
                at = self._schedule.retry_at
            self._wait(at)
        try:
            self.finish(self._deadline)
        except Exception:  # noqa: BLE001 - nothing else reports an exception of this thread
            _log.exception("the last delivery failed; the next start delivers the rest")

    def _wait(self, until: float) -> None:
        with self._changed:
            while self._deadline is None:
                left_s = until - self._clock()
                if left_s <= 0 or self._woken:
                    break
                self._changed.wait(left_s)
            self._woken = False

    def step(self) -> float:
        """Do the work that is due; return the time at which the next step is due."""
        before = (self.delivered, self.errors, self._database.status)
        with self._changed:
            then, self._then = self._then, []
        at = self._step()
        for one in then:
            # The worker takes the list first, and then makes this call.
            self._post(one)
        if before != (self.delivered, self.errors, self._database.status) and self.observer is not None:
            self._post(self.observer.delivered)
        return at

    def _step(self) -> float:
        now = self._clock()
        self._take_wishes(now)
        # While the database is away, an append is no reason to ask again.
        if now < self._schedule.retry_at:
            return self._schedule.retry_at
        try:
            more = self._work(now)
        except AtlasError as error:
            self._failed(error)
            return self._schedule.retry_at
        return now if more else self._schedule.next_at(self._clock())

    def _take_wishes(self, now: float) -> None:
        with self._changed:
            self._schedule.grew(self._grown)
            self._schedule.doubt(self._doubtful)
            self._to_tidy.extend(self._untidy.difference(self._to_tidy))
            if self._compares_all:
                self._schedule.compare_from(now)
            if self._lists:
                self._schedule.list_now()
            self._grown, self._doubtful, self._untidy = set(), set(), set()
            self._compares_all = self._lists = False

    def _failed(self, error: AtlasError) -> None:
        self.errors += 1
        self._schedule.failed(self._clock())
        if isinstance(error, JournalProblem) or not is_away(error):
            self._say(f"cannot deliver: {error}")
        else:
            self._database.failed(error)

    def _stumbled(self, error: Exception) -> None:
        """Log an unexpected error, with its traceback if it is not the same as the last time."""
        if repr(error) != self._stumbled_at:
            _log.error("the delivery failed and goes on", exc_info=error)
        self._stumbled_at = repr(error)

    def _work(self, now: float) -> bool:
        if self._schedule.is_listing_due(now):
            self._list()
        more = self._deliver()
        self._tidy()
        self._compare(now)
        for user in self._schedule.users_to_measure(now):
            self._measure(user)
        self._maintain(now)
        self._schedule.answered()
        return more

    def finish(self, deadline: float) -> None:
        """Deliver what is left and measure memory, until a time. If the database is away, it stays in the journal."""
        if self._maintenance is not None:
            self._maintenance.stop()
        now = self._clock()
        self._take_wishes(now)
        try:
            if self._database.status.ok:
                while self._clock() < deadline and self._deliver():
                    pass
                for user in self._schedule.users_to_measure(now, last=True):
                    if self._clock() >= deadline:
                        break
                    self._measure(user)
        except AtlasError as error:
            self._failed(error)
        left = self._journal.status()
        if left.records:
            _log.warning("%d versions are in the journal; the next start delivers them", left.records)

    def _list(self) -> None:
        began = time.thread_time()
        found = self._database.atlas.projects.list()
        self._database.answered()
        projects = {project.id: project for project in found}
        if projects != self._projects or not self._is_listed:
            fresh = [project for project in found if project.id not in self._known]
            heads = newest_heads(fresh, self._database.atlas, self._journal)
            self._projects = projects
            # After a failure, as on a full disk, the next listing tries again.
            self._is_listed = self._remember(found, heads)
            observer = self.observer
            if observer is not None:
                self._post(lambda: observer.listed(found, heads))
        if self._listens:
            self._listener.begin(self._database.atlas)
        self._schedule.listed(self._clock(), cpu_s=time.thread_time() - began, is_told=self._listener.listening)

    def _remember(self, projects: Sequence[Project], heads: Mapping[UUID, Sequence[KnownHead]]) -> bool:
        """Store the list of projects in the journal; return whether the journal has it now."""
        try:
            # The files come first: a project without them would have all its files recorded again by the next start.
            self._journal.append([], heads)
            self._journal.remember_projects(projects, complete=True)
            for gone in self._known.difference(project.id for project in projects):
                self._journal.forget_heads(gone)
        except JournalProblem as problem:
            self._say(f"{problem}; the next start needs the database for its list of projects")
            return False
        self._known = {project.id for project in projects}
        return True

    def _deliver(self) -> bool:
        """Deliver a batch of records; return whether more can be delivered now."""
        if self._journal.is_empty():
            return False
        done = self._database.atlas.memory.deliver(limit=_RECORDS)
        self._database.answered()
        self.delivered += done.delivered
        self._problems = dict.fromkeys(one for one in self._problems if one in done.problems)
        for problem in done.problems:
            self._say(problem)
        return done.delivered > 0 and done.remaining > 0

    def _say(self, problem: str) -> None:
        if problem not in self._problems:
            self._problems[problem] = None
            _log.warning("%s", problem)

    def _tidy(self) -> None:
        while self._to_tidy:
            project = self._projects.get(self._to_tidy[0])
            if project is not None:
                remove = partial(_remove_leftovers, project=project)
                self._try(f"{project.path}: cannot remove what a killed restore has left", remove)
            self._to_tidy.popleft()

    def _compare(self, now: float) -> None:
        self._schedule.begin_comparison(now, self._projects)
        wanted = self._schedule.to_compare(now)
        if not wanted or self.observer is None:
            return
        began, cpu_began = datetime.now(UTC), time.thread_time()
        versions: dict[UUID, list[Snapshot]] = {one: [] for one in wanted if one in self._projects}
        projects = [self._projects[one] for one in versions]
        for version in self._database.atlas.memory.heads(projects) if projects else ():
            versions[version.project_id].append(version)
        observer = self.observer
        self._post(lambda: observer.compare(versions, began))
        self._schedule.compared(wanted, self._clock(), cpu_s=time.thread_time() - cpu_began)

    def _measure(self, user_id: UUID) -> None:
        """Record an event if the memory of a user has passed a threshold, 80 or 100 per cent of the limit."""
        self._try(f"cannot measure the memory of user {user_id}", partial(_record_threshold, user_id=user_id))

    def _try(self, what: str, call: Callable[[Atlas], None]) -> None:
        try:
            call(self._database.atlas)
        except AtlasError as error:
            if is_away(error):
                raise
            self.errors += 1
            _log.warning("%s: %s", what, error)

    def _maintain(self, now: float) -> None:
        if self._maintenance is None:
            return
        if self._maintenance.take_ended():
            self._schedule.plan_maintenance(now)
        if self._maintenance.is_allowed and self._schedule.is_maintenance_due(now):
            self._schedule.began_maintenance()
            self._maintenance.begin(self._database.atlas)


def _record_threshold(atlas: Atlas, *, user_id: UUID) -> None:
    atlas.quotas.record_memory_threshold(atlas.users.get(user_id))


def _remove_leftovers(atlas: Atlas, *, project: Project) -> None:
    atlas.memory.remove_leftovers(project)

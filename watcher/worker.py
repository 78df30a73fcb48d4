"""The thread that looks at files, and never waits for the database. `Scheduler` decides the times."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from attrs import evolve

from atlas_sdk import Project, Snapshot
from atlas_sdk.journal import Journal, KnownHead
from watcher.backend import Backend
from watcher.capture import Reader
from watcher.comparison import stale_paths
from watcher.database import Database
from watcher.debounce import ChangeKind, Due, Timing
from watcher.delivery import DeliveryThread
from watcher.event_queue import EventQueue
from watcher.file_states import Pending, Surroundings, project_status
from watcher.maintenance import MaintenanceRunner
from watcher.projects import WatchedProjects
from watcher.scheduler import Scheduler
from watcher.status import JournalNumbers, Status

_log = logging.getLogger(__name__)

#: The most files that the worker reads before it does another task.
_FILES_IN_A_ROW = 100
#: Seconds to pause after an unexpected error.
_FAILED_S = 5.0


class Worker:
    """The loop that looks at queued files, and sweeps all projects at intervals. Only one thread may run it."""

    def __init__(
        self,
        *,
        database: Database,
        journal: Journal,
        delivery: DeliveryThread,
        reader: Reader,
        backend: Backend,
        queue: EventQueue,
        timing: Timing,
        clock: Callable[[], float],
        started: Status,
        report: Callable[[Status], None],
        maintenance: MaintenanceRunner | None = None,
    ) -> None:
        self._database = database
        self._delivery = delivery
        self._backend = backend
        self._queue = queue
        self._timing = timing
        self._clock = clock
        self._started = started
        self._report = report
        self._maintenance = maintenance
        self._scheduler = Scheduler(timing)
        self._pending = Pending(journal)
        self._projects = WatchedProjects(
            journal=journal,
            deliverer=delivery,
            reader=reader,
            backend=backend,
            queue=queue,
            timing=timing,
            clock=clock,
            scheduler=self._scheduler,
        )
        delivery.observer = self
        #: The time, by the worker's clock, at which the last work began: after `stop` of the queue.
        self.drained_from: float | None = None
        #: True when the database has told which projects are registered.
        self._is_listed = False
        #: True after the worker has compared every project once.
        self.ready = False
        #: The time, by the worker's clock, at which the last step began. Any thread may read it. A worker sleeps for
        #: 10 s at most, so if its last step began more than 30 s ago, it hangs.
        self.alive_at = clock()

    def run(self) -> None:
        """Work until the queue is stopped, and then put the remaining changes into the journal."""
        while not self._queue.stopping:
            try:
                at = self.step()
            except Exception:  # noqa: BLE001 - see below
                # Go on after a pause, because without this thread no change is captured.
                _log.exception("the watcher failed and goes on")
                at = self._clock() + _FAILED_S
                self._queue.wait_for_stop(at)
            if self._clock() < at:
                self._queue.wait(at)
        self.drain()

    def load(self, projects: Sequence[Project], heads: Mapping[UUID, Sequence[KnownHead]]) -> None:
        """Watch the projects that the journal knows, before the database has answered."""
        if projects:
            self._projects.update(projects, heads)
            self._scheduler.started(self._clock())

    # The delivery thread posts these calls, and `step` makes them.

    def listed(self, projects: Sequence[Project], heads: Mapping[UUID, Sequence[KnownHead]]) -> None:
        """Take the list of the registered projects, and the files of those that are new."""
        self._projects.update(projects, heads)
        self._scheduler.started(self._clock())
        self._is_listed = True

    def delivered(self) -> None:
        """Write the status soon: the numbers of the delivery or the state of the database have changed."""
        self._scheduler.news = True

    def compare(self, versions: Mapping[UUID, Sequence[Snapshot]], began: datetime) -> None:
        """Mark each file whose newest version in the database is unknown to this daemon."""
        for project, of_project in versions.items():
            folder = self._projects.folders.get(project)
            if folder is None or folder.identity is None or folder.lost is not None:
                continue
            pending = {file.path for file in self._pending.files(project)}
            try:
                found = list(stale_paths(folder, of_project, pending=pending, began=began))
            except Exception:  # noqa: BLE001 - a fault in one project must not stop the comparison of the others
                _log.exception("%s: cannot compare with the database", folder.root)
                found = []
            for path in found:
                folder.stale.add(path)
                self._queue.mark(project, path, ChangeKind.FOUND)

    # The worker's thread calls the methods below.

    def step(self) -> float:
        """Do a part of the work that is due; return the time at which the next step is due."""
        now = self.alive_at = self._clock()
        overflows = self._queue.take_overflows()
        if overflows:
            _log.warning("events were lost: every project is scanned")
            self._projects.count("overflows", overflows)
            self._scheduler.request_scan(*(folder.id for folder in self._projects.by_activity()))
        self._take_messages()
        more = self._work(now)
        self._write_status(now)
        return now if more else self._scheduler.next_at(self._clock())

    def _take_messages(self) -> None:
        for message in self._queue.take_messages():
            try:
                message()
            except Exception:  # noqa: BLE001 - a fault must not lose the messages after it
                _log.exception("the watcher failed and goes on")

    def drain(self) -> None:
        """Put every difference into the journal at once, without waiting for writers. This is the last call."""
        self.drained_from = self._clock()
        deadline = self.drained_from + self._timing.drain_s
        if self._maintenance is not None:
            self._maintenance.stop()
        self._look_at_the_rest(deadline)
        for folder in self._projects.by_activity():
            if self._clock() >= deadline:
                break
            # Compare the files, because an event may still be in the kernel's queue. The next start scans a project
            # that was not scanned yet.
            if folder.identity is not None and folder.lost is None and self._projects.may_differ(folder):
                self._projects.look_at_project(folder.id, last=True)
        self._look_at_the_rest(deadline)
        self._projects.save_heads(last=True)
        if len(self._queue):
            _log.warning("%d changes are not saved yet; the next start finds them", len(self._queue))
        self.report_now()

    def report_now(self) -> None:
        """Write the status."""
        self._scheduler.report_now()
        self._write_status(self._clock())

    def _look_at_the_rest(self, deadline: float) -> None:
        while self._clock() < deadline and (dues := list(self._due(math.inf))):
            self._projects.look(dues, last=True)

    def _work(self, now: float) -> bool:
        """Do a part of each task; return whether more work is due now."""
        if self._scheduler.is_mount_due(now):
            self._projects.look_at_mounts()
        dues = list(self._due(now))
        self._projects.look(dues)
        idle = len(dues) < _FILES_IN_A_ROW
        for project in self._scheduler.scans():
            self._projects.look_at_project(project)
            idle = False
        if idle and not self.ready and self._has_projects() and not self._scheduler.has_scans:
            self.ready = True
            self._scheduler.report_now()
            self._delivery.compare_all()
            _log.info("ready; projects watched: %d", len(self._projects.folders))
        self._sweep(now)
        for project in self._scheduler.lost_projects(now):
            if self._projects.folders[project].is_back():
                self._scheduler.request_scan(project)
        more = not idle or self._scheduler.has_backlog
        if self._maintenance is not None:
            self._maintenance.allow(idle=self.ready and not more)
        return more

    def _has_projects(self) -> bool:
        """Return whether the projects are known: from the database, or from the journal if the database is away."""
        return self._is_listed or (bool(self._projects.folders) and self._database.status.problem is not None)

    def _due(self, now: float) -> Iterator[Due]:
        """Yield files that are due."""
        for _ in range(_FILES_IN_A_ROW):
            due = self._queue.pop(now)
            if due is None:
                return
            yield due

    def _sweep(self, now: float) -> None:
        self._scheduler.begin_sweep(now, self._projects.folders)
        for project in self._scheduler.sweep(now):
            folder = self._projects.folders.get(project)
            if folder is not None and folder.lost is None and self._projects.may_differ(folder):
                self._scheduler.request_scan(project)
        self._projects.save_heads()

    def _write_status(self, now: float) -> None:
        if self._scheduler.is_status_due(now):
            began = time.thread_time()
            self._report(self.status())
            self._scheduler.reported(now, cpu_s=time.thread_time() - began)

    def status(self) -> Status:
        """Return the present status of the daemon."""
        folders = self._projects.folders.values()
        waiting: dict[UUID, dict[str, float]] = {}
        for (project, path), first in self._queue.waiting().items():
            waiting.setdefault(project, {})[path] = first
        now, clock = datetime.now(UTC), self._clock()
        around = Surroundings(
            now=now,
            waiting=waiting,
            pending=self._pending.by_project(self._projects.folders),
            away=None if self._database.status.ok else self._database.status.problem,
            date=lambda moment: now - timedelta(seconds=clock - moment),
        )
        firsts = [first for of_project in waiting.values() for first in of_project.values()]
        counters = {
            **self._projects.counters,
            "errors": self._projects.counters["errors"] + self._delivery.errors,
            "delivered": self._delivery.delivered,
            "events": self._queue.events,
            "watch_failures": sum(1 for folder in folders if folder.unwatched),
        }
        return evolve(
            self._started,
            written_at=now,
            ready=self.ready,
            backend=self._backend.name,
            database=self._database.status,
            journal=self._journal_numbers(),
            pending=sum(map(len, waiting.values())),
            oldest_pending_at=around.date(min(firsts)) if firsts else None,
            counters=counters,
            projects=tuple(project_status(folder, around) for folder in folders),
            maintenance=None if self._maintenance is None else self._maintenance.status,
        )

    def _journal_numbers(self) -> JournalNumbers:
        found = self._pending.status()
        return JournalNumbers(
            records=found.records,
            bytes=found.bytes,
            oldest_at=found.oldest_at,
            held_back=found.held_back,
            dropped=found.dropped,
            problem=self._projects.journal_problem or found.problem,
        )

"""The thread that looks at files and asks the database. `Scheduler` decides the times, and `Worker` does the work."""

import logging
import math
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from attrs import evolve

from atlas_sdk import AtlasError
from watcher.backend import Backend
from watcher.database import Database, is_away
from watcher.debounce import ChangeKind, Timing
from watcher.event_queue import EventQueue
from watcher.folder import Folder
from watcher.maintenance import MaintenanceRunner
from watcher.projects import WatchedProjects
from watcher.scan import stale_paths
from watcher.scheduler import Scheduler
from watcher.status import Status

_log = logging.getLogger(__name__)

#: The most files that the worker reads before it does another task.
_FILES_IN_A_ROW = 100


class Worker:
    """The loop that looks at queued files, and sweeps all projects at intervals. Only one thread may run it."""

    def __init__(
        self,
        *,
        database: Database,
        backend: Backend,
        queue: EventQueue,
        timing: Timing,
        clock: Callable[[], float],
        started: Status,
        report: Callable[[Status], None],
        maintenance: MaintenanceRunner | None = None,
        reloaded: Callable[[], None] = lambda: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._backend = backend
        self._queue = queue
        self._timing = timing
        self._clock = clock
        self._started = started
        self._report = report
        self._maintenance = maintenance
        self._reloaded = reloaded
        self._scheduler = Scheduler(timing, jitter=jitter)
        if maintenance is not None:
            self._scheduler.plan_maintenance(clock(), first=True)
        self._projects = WatchedProjects(
            database=database, backend=backend, queue=queue, timing=timing, clock=clock, scheduler=self._scheduler
        )
        #: True after the worker has compared every project once.
        self.ready = False
        #: The time, by the worker's clock, at which the last step began. Any thread may read it.
        self.alive_at = clock()

    def run(self) -> None:
        """Work until the queue is stopped, and then store the remaining changes."""
        while not self._queue.stopping:
            try:
                at = self.step()
            except Exception:  # noqa: BLE001 - see below
                # Go on after a pause, because without this thread no change is captured.
                _log.exception("the watcher failed and goes on")
                at = self._clock() + self._timing.retry_most_s
                self._queue.wait_for_stop(at)
            now = self._clock()
            if now < self._scheduler.retry_at:
                # Do not wake up for files that are due, because they cannot be stored now.
                self._queue.wait_for_stop(at)
            elif now < at:
                self._queue.wait(at)
        self.drain()

    def step(self) -> float:
        """Do a part of the work that is due; return the time at which the next step is due."""
        now = self.alive_at = self._clock()
        reload = self._queue.take_reload()
        if reload:
            self._scheduler.list_now()
        overflows = self._queue.take_overflows()
        if overflows:
            _log.warning("events were lost: every project is scanned")
            self._projects.count("overflows", overflows)
            self._scheduler.request_scan(*self._projects.folders)
        more = False
        if now >= self._scheduler.retry_at:
            try:
                more = self._work(now)
            except AtlasError as error:
                self._database_failed(error)
        if reload:
            self._reloaded()
        self._write_status(now)
        return now if more else self._scheduler.next_at(self._clock())

    def drain(self) -> None:
        """Store every difference at once, without waiting for writers. This is the last call."""
        self.alive_at = self._clock()
        deadline = self._clock() + self._timing.drain_s
        if self._maintenance is not None:
            self._maintenance.stop()
        try:
            for folder in self._projects.folders.values():
                if self._clock() >= deadline:
                    break
                # Compare the files, because an event may still be in the kernel's queue.
                if folder.loaded and folder.lost is None and self._projects.may_differ(folder):
                    self._projects.look_at_project(folder.id, last=True)
            while self._clock() < deadline and (due := self._queue.pop(math.inf)) is not None:
                self._projects.look(due, last=True)
            for user in self._scheduler.users_to_measure(last=True):
                if self._clock() >= deadline:
                    break
                self._measure_memory(user)
        except AtlasError as error:
            self._database_failed(error)
        if len(self._queue):
            _log.warning("%d changes are not stored yet; the next start finds them", len(self._queue))
        self._scheduler.report_now()
        self._write_status(self._clock())

    def _work(self, now: float) -> bool:
        """Do a part of each task that needs the database; return whether more work is due now."""
        if self._scheduler.is_listing_due(now):
            self._list_projects()
        idle = self._look_at_files()
        for project in self._scheduler.scans():
            self._projects.look_at_project(project)
            idle = False
        if idle and not self.ready:
            self.ready = True
            self._scheduler.report_now()
            _log.info("ready; projects watched: %d", len(self._projects.folders))
        self._sweep(now)
        for project in self._scheduler.lost_projects(now):
            if self._projects.folders[project].is_back():
                self._scheduler.request_scan(project)
        more = not idle or not self.ready or self._scheduler.has_backlog
        self._maintain(now, idle=not more)
        return more

    def _list_projects(self) -> None:
        began = time.thread_time()
        registered = self._database.atlas.projects.list()
        self._database.answered()
        self._scheduler.database_answered()
        self._projects.update(registered)
        self._scheduler.listed(self._clock(), cpu_s=time.thread_time() - began)

    def _look_at_files(self) -> bool:
        """Look at files that are due; return True if no more are due."""
        for _ in range(_FILES_IN_A_ROW):
            due = self._queue.pop(self._clock())
            if due is None:
                return True
            self._projects.look(due)
        return False

    def _sweep(self, now: float) -> None:
        self._scheduler.begin_sweep(now, self._projects.folders)
        for user in self._scheduler.users_to_measure():
            self._measure_memory(user)
        for project in self._scheduler.sweep(now):
            folder = self._projects.folders.get(project)
            if folder is not None and folder.lost is None:
                self._compare(folder, now)
                if self._projects.may_differ(folder):
                    self._scheduler.request_scan(project)

    def _compare(self, folder: Folder, now: float) -> None:
        """Mark each file whose newest version in the database is unknown to this daemon, if a comparison is due."""
        if not folder.loaded or not self._scheduler.is_comparison_due(folder.id):
            return
        began = time.thread_time()
        try:
            found = list(stale_paths(folder, self._database.atlas))
        except AtlasError as error:
            self._note_failure(error, f"{folder.root}: cannot compare with the database")
            found = []
        for path in found:
            folder.stale.add(path)
            self._queue.mark(folder.id, path, ChangeKind.FOUND)
        self._scheduler.compared(folder.id, now, cpu_s=time.thread_time() - began)

    def _measure_memory(self, user_id: UUID) -> None:
        """Record an event if the memory of a user has passed a threshold, 80 or 100 per cent of the limit."""
        atlas = self._database.atlas
        try:
            atlas.quotas.record_memory_threshold(atlas.users.get(user_id))
        except AtlasError as error:
            self._note_failure(error, f"cannot measure the memory of user {user_id}")

    def _note_failure(self, error: AtlasError, what: str) -> None:
        if is_away(error):
            raise error
        self._projects.count("errors")
        _log.warning("%s: %s", what, error)

    def _maintain(self, now: float, *, idle: bool) -> None:
        if self._maintenance is None:
            return
        self._maintenance.allow(idle=idle)
        if not idle:
            return
        if self._maintenance.take_ended():
            self._scheduler.plan_maintenance(now)
        atlas = self._database.atlas
        if self._scheduler.take_maintenance(now):
            self._maintenance.begin(atlas)

    def _database_failed(self, error: AtlasError) -> None:
        self._projects.count("errors")
        self._database.failed(error)
        self._scheduler.database_failed(self._clock())

    def _write_status(self, now: float) -> None:
        if self._scheduler.is_status_due(now):
            began = time.thread_time()
            self._report(self.status())
            self._scheduler.reported(now, cpu_s=time.thread_time() - began)

    def status(self) -> Status:
        """Return the present status of the daemon."""
        folders = self._projects.folders.values()
        counters = {
            **self._projects.counters,
            "events": self._queue.events,
            "watch_failures": sum(1 for folder in folders if folder.unwatched),
        }
        return evolve(
            self._started,
            written_at=datetime.now(UTC),
            ready=self.ready,
            backend=self._backend.name,
            database=self._database.status,
            pending=len(self._queue),
            counters=counters,
            projects=tuple(folder.status() for folder in folders),
            maintenance=None if self._maintenance is None else self._maintenance.status,
        )

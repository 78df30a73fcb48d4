"""A worker without threads and servers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

from fakes import FakeAtlas, FakeBackend, FakeJournal

from atlas_sdk import Atlas, Attribution, Project
from atlas_sdk.actor import new_id
from atlas_sdk.journal import Journal
from watcher.backend import WatchedFolder
from watcher.capture import Reader
from watcher.database import Database
from watcher.database_schedule import DatabaseSchedule
from watcher.debounce import ChangeKind, Timing
from watcher.delivery import DeliveryThread
from watcher.event_queue import EventQueue
from watcher.maintenance import MaintenanceRunner
from watcher.status import ProjectStatus, Status
from watcher.worker import Worker


class Rig:
    """A worker and a delivery with fake surroundings, and a clock that only a test moves."""

    def __init__(
        self,
        *,
        maintenance: MaintenanceRunner | None = None,
        journal: FakeJournal | None = None,
        atlas: FakeAtlas | None = None,
        backend: FakeBackend | None = None,
        clock: Callable[[], float] | None = None,
        **timing: float,
    ) -> None:
        self.now = 1000.0
        self.journal = journal or FakeJournal()
        self.atlas = atlas or FakeAtlas(self.journal)
        self.timing = Timing(**timing)
        self.backend = backend or FakeBackend()
        clock = clock or (lambda: self.now)
        self.queue = EventQueue(self.timing, clock=clock)
        self.reports: list[Status] = []
        database = Database(lambda: cast("Atlas", self.atlas))
        self.delivery = DeliveryThread(
            database=database,
            journal=cast("Journal", self.journal),
            schedule=DatabaseSchedule(self.timing, jitter=lambda: 0.5),
            clock=clock,
            post=self.queue.post,
            maintenance=maintenance,
            known={project.id for project in self.journal.remembered},
        )
        self.worker = Worker(
            database=database,
            journal=cast("Journal", self.journal),
            delivery=self.delivery,
            reader=Reader(Attribution(source="watcher"), new_id),
            backend=self.backend,
            queue=self.queue,
            timing=self.timing,
            clock=clock,
            started=Status(pid=1, started_at=datetime.now(UTC)),
            report=self.reports.append,
            maintenance=maintenance,
        )
        self.worker.load(self.journal.remembered, self.journal.heads())
        self.backend.start(self.queue)

    def restarted(self) -> Rig:
        """Return a new daemon, as after a kill: only the journal and the database are the old ones."""
        return Rig(journal=self.journal, atlas=self.atlas)

    def settle(self, seconds: float = 0.0) -> None:
        """Let time pass in small steps, and run the steps that become due."""
        end = self.now + seconds
        while True:
            self.leap(0.0)
            if self.now >= end:
                return
            self.now = min(end, self.now + 0.01)

    def leap(self, seconds: float) -> None:
        """Let time pass in one step, and run the steps that become due."""
        self.now += seconds
        while True:
            self.work()
            if self.delivery.step() > self.now and not self.queue.has_messages:
                return

    def work(self) -> None:
        """Run the worker's steps that are due, and not the delivery's."""
        while self.worker.step() <= self.now:
            pass

    def drain(self) -> None:
        """End the daemon."""
        self.worker.drain()
        self.delivery.finish(self.now + self.timing.drain_s)

    def event(
        self, project: Project, path: str, change: ChangeKind = ChangeKind.CLOSED, *, is_folder: bool = False
    ) -> None:
        folder, _, name = path.rpartition("/")
        self.queue.changed(WatchedFolder(project.id, folder), name, change, is_folder=is_folder)

    def status_of(self, project: Project) -> ProjectStatus:
        return next(one for one in self.worker.status().projects if one.id == str(project.id))

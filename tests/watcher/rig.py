"""A worker without threads and servers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

from fakes import FakeAtlas, FakeBackend

from atlas_sdk import Atlas, Project
from watcher.backend import WatchedFolder
from watcher.database import Database
from watcher.debounce import ChangeKind, Timing
from watcher.event_queue import EventQueue
from watcher.maintenance import MaintenanceRunner
from watcher.status import ProjectStatus, Status
from watcher.worker import Worker


class Rig:
    """A worker with fake surroundings, and a clock that only a test moves."""

    def __init__(self, *, maintenance: MaintenanceRunner | None = None, **timing: float) -> None:
        self.now = 1000.0
        self.atlas = FakeAtlas()
        self.timing = Timing(**timing)
        self.backend = FakeBackend()
        self.queue = EventQueue(self.timing, clock=lambda: self.now)
        self.reports: list[Status] = []
        self.worker = Worker(
            database=Database(lambda: cast("Atlas", self.atlas)),
            backend=self.backend,
            queue=self.queue,
            timing=self.timing,
            clock=lambda: self.now,
            started=Status(pid=1, started_at=datetime.now(UTC)),
            report=self.reports.append,
            maintenance=maintenance,
            jitter=lambda: 0.5,
        )
        self.backend.start(self.queue)

    def settle(self, seconds: float = 0.0) -> None:
        """Let time pass in small steps, and run the worker's steps that become due."""
        end = self.now + seconds
        while True:
            self.leap(0.0)
            if self.now >= end:
                return
            self.now = min(end, self.now + 0.01)

    def leap(self, seconds: float) -> None:
        """Let time pass in one step, and run the worker's steps that become due."""
        self.now += seconds
        while self.worker.step() <= self.now:
            pass

    def event(
        self, project: Project, path: str, change: ChangeKind = ChangeKind.CLOSED, *, is_folder: bool = False
    ) -> None:
        folder, _, name = path.rpartition("/")
        self.queue.changed(WatchedFolder(project.id, folder), name, change, is_folder=is_folder)

    def status_of(self, project: Project) -> ProjectStatus:
        return next(one for one in self.worker.status().projects if one.id == str(project.id))

"""The one thread that looks at files and talks to the database."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from attrs import evolve

from atlas_sdk import AtlasError, FileProblem, QuotaExceeded
from atlas_sdk.files import hold, printable
from watcher.backend import Backend
from watcher.capture import capture
from watcher.database import Database, is_away
from watcher.debounce import ChangeKind, Due, Timing
from watcher.event_queue import EventQueue
from watcher.folder import Folder
from watcher.maintenance import MaintenanceScheduler
from watcher.scan import is_replaced, load, scan, stale_paths, unwatch
from watcher.status import Status

__all__ = ["Worker"]

_log = logging.getLogger(__name__)

#: Files between two looks at anything else.
_FILES_IN_A_ROW = 100
#: Projects that are compared by `stat` in one go: some milliseconds.
_SWEPT_IN_A_ROW = 20
#: What is done again and again may take this part of one core's time at most.
_SHARE = 0.005
#: A project is left alone for this many times as long as its last scan took.
_REST = 4
#: A file that the database refused, for a reason that may pass.
_REFUSED_S = 5.0
#: A file that a hard limit refused: somebody has to raise that.
_FULL_S = 30.0


class Worker:
    """Looks at what the queue says, and at everything now and then. All of it in one thread, so nothing races."""

    def __init__(
        self,
        *,
        database: Database,
        backend: Backend,
        queue: EventQueue,
        timing: Timing,
        clock: Callable[[], float],
        cpu: Callable[[], float] = time.thread_time,
        started: Status,
        report: Callable[[Status], None],
        maintenance: MaintenanceScheduler | None = None,
    ) -> None:
        self._maintenance = maintenance
        self._database = database
        self._backend = backend
        self._queue = queue
        self._timing = timing
        self._clock = clock
        self._cpu = cpu
        self._started = started
        self._report = report
        self._folders: dict[UUID, Folder] = {}
        self._to_scan: dict[UUID, None] = {}
        self._to_sweep: deque[UUID] = deque()
        self._projects_at = 0.0
        self._sweep_at = math.inf
        #: What is still to be compared with the database in this sweep, and from when on the next may do so again.
        self._to_compare: set[UUID] = set()
        self._compare_at = 0.0
        self._lost: set[UUID] = set()
        self._lost_at = 0.0
        self._unwatched: set[UUID] = set()
        #: Users who have new versions, and those of them of whose memory it is to be told in this sweep.
        self._grown: set[UUID] = set()
        self._to_tell: set[UUID] = set()
        self._poll_at = 0.0
        self._status_at = 0.0
        self._heartbeat_at = 0.0
        self._news = True
        self._counters = dict.fromkeys(("captures", "snapshots", "deletions", "scans", "overflows", "errors"), 0)
        #: Whether every project was compared once.
        self.ready = False

    def run(self) -> None:
        """Work until the queue says stop, then store what is left."""
        while not self._queue.stopping:
            try:
                at = self.step()
            except Exception:  # noqa: BLE001 - see below
                # Nobody else would take the versions: go on, slowly.
                _log.exception("the watcher failed and goes on")
                at = self._clock() + self._timing.retry_most_s
                self._queue.wait_for_stop(at)
            now = self._clock()
            if now < self._database.retry_at:
                # What is due cannot be done now.
                self._queue.wait_for_stop(at)
            elif now < at:
                self._queue.wait(at)
        self.drain()

    def step(self) -> float:
        """Do a share of what is to be done now; return when there is more."""
        now = self._clock()
        overflows = self._queue.take_overflows()
        if overflows:
            _log.warning("events were lost: every project is scanned")
            self._count("overflows", overflows)
            self._to_scan.update(dict.fromkeys(self._folders))
        more = False
        if now >= self._database.retry_at:
            try:
                more = self._work(now)
            except AtlasError as error:
                self._away(error)
        self._say(now)
        return now if more else self._next_at(self._clock())

    def drain(self) -> None:
        """Store everything that differs at once, without waiting for writers. The last thing to do."""
        deadline = self._clock() + self._timing.drain_s
        if self._maintenance is not None:
            self._maintenance.stop()
        try:
            for folder in self._folders.values():
                # An event may still be in the kernel's queue.
                if folder.loaded and folder.lost is None and self._clock() < deadline and self._may_differ(folder):
                    now = self._clock()
                    self._look(Due(key=(folder.id, ""), change=ChangeKind.FOUND, first=now, at=now), last=True)
            while self._clock() < deadline and (due := self._queue.pop(math.inf)) is not None:
                self._look(due, last=True)
            self._to_tell |= self._grown
            while self._to_tell and self._clock() < deadline:
                self._record_memory_thresholds()
        except AtlasError as error:
            self._away(error)
        if len(self._queue):
            _log.warning("%d changes are not stored yet; the next start finds them", len(self._queue))
        self._heartbeat_at = 0.0
        self._say(self._clock())

    def _work(self, now: float) -> bool:
        if now >= self._projects_at:
            self._read_projects()
        idle = self._look_at_files()
        if self._to_scan:
            project = next(iter(self._to_scan))
            self._look(Due(key=(project, ""), change=ChangeKind.FOUND, first=now, at=now))
            # Only now: when the database goes away in between, it is still to be done.
            self._to_scan.pop(project, None)
            idle = False
        elif idle and not self.ready:
            self.ready = self._news = True
            self._status_at = 0.0
            _log.info("ready; projects watched: %d", len(self._folders))
        self._sweep(now)
        self._look_for_lost(now)
        more = bool(self._to_scan or self._to_sweep or self._to_tell or not idle or not self.ready)
        if self._maintenance is not None:
            self._maintenance.step(now, lambda: self._database.atlas, quiet=not more)
        return more

    # Projects.

    def _read_projects(self) -> None:
        began = self._cpu()
        found = {project.id: project for project in self._database.atlas.projects.list()}
        self._database.succeeded()
        for folder in list(self._folders.values()):
            project = found.get(folder.id)
            if project is None or project.path != folder.project.path:
                self._remove(folder)
            else:
                folder.project = project
        for project in found.values():
            if project.id not in self._folders:
                self._folders[project.id] = Folder.of(project)
                self._to_scan[project.id] = None
                self._news = True
        self._queue.projects = dict(self._folders)
        now = self._clock()
        self._projects_at = now + max(self._timing.projects_s, (self._cpu() - began) / _SHARE)
        if self._sweep_at == math.inf:
            self._sweep_at = now + self._timing.sweep_s

    def _remove(self, folder: Folder) -> None:
        unwatch(folder, self._backend)
        del self._folders[folder.id]
        self._to_scan.pop(folder.id, None)
        self._lost.discard(folder.id)
        self._unwatched.discard(folder.id)
        self._to_compare.discard(folder.id)
        self._queue.forget(folder.id)
        self._news = True

    # Files.

    def _look_at_files(self) -> bool:
        """Look at what is due; return whether that was all."""
        for _ in range(_FILES_IN_A_ROW):
            due = self._queue.pop(self._clock())
            if due is None:
                return True
            self._look(due)
        return False

    def _look(self, due: Due, *, last: bool = False) -> None:
        project, path = due.key
        folder = self._folders.get(project)
        if folder is None or (path and folder.lost is not None):
            return
        try:
            if path == "":
                if folder.rest_until > self._clock() and not last:
                    self._queue.put_back(due, folder.rest_until)
                    return
                self._scan(folder)
            else:
                self._capture(folder, path, due.change, last=last)
        except AtlasError as error:
            if is_away(error):
                self._queue.put_back(due, self._clock())
                raise
            full = isinstance(error, QuotaExceeded)
            self._trouble(folder, path, f"{printable(path)}: {error}" if full else str(error))
            if not isinstance(error, FileProblem) and not last:
                self._queue.put_back(due, self._clock() + (_FULL_S if full else _REFUSED_S))
        except Exception as error:  # noqa: BLE001 - whatever it is, see below
            # One file must never stop the others.
            _log.exception("%s: cannot look at %s", folder.root, path)
            self._trouble(folder, path, f"{type(error).__name__}; see the watcher's log")

    def _capture(self, folder: Folder, path: str, change: ChangeKind, *, last: bool) -> None:
        try:
            done = capture(folder, path, self._database.atlas, change=change)
        except FileProblem:
            if folder.is_there():
                raise
            self._queue.mark(folder.id, "", ChangeKind.FOUND)
            return
        self._count("captures")
        self._count("snapshots", int(done.stored))
        self._count("deletions", int(done.deleted))
        if done.stored:
            self._grown.add(folder.project.user_id)
        folder.note(path, None)
        if done.again is ChangeKind.VANISHED or (done.again is not None and not last):
            self._queue.mark(folder.id, path, done.again)
        if done.leads and not last:
            # Into folders that are not watched yet, perhaps.
            self._queue.mark(folder.id, "", ChangeKind.CLOSED)

    def _trouble(self, folder: Folder, path: str, problem: str) -> None:
        if folder.note(path, problem):
            self._count("errors")
            _log.warning("%s: %s", folder.root, problem)

    # Scans.

    def _scan(self, folder: Folder) -> None:
        self._count("scans")
        load(folder, self._database.atlas)
        began = self._clock()
        try:
            with hold(folder.root) as root:
                if is_replaced(folder, root) and not self._is_over(folder):
                    self._lose(folder, "another folder is in its place, without any memory file or of another owner")
                    return
                for path, change in scan(folder, root, self._backend):
                    self._queue.mark(folder.id, path, change)
        except FileProblem as error:
            self._lose(folder, str(error))
            return
        if folder.lost is not None:
            _log.info("%s is back", folder.root)
            folder.lost = None
            self._lost.discard(folder.id)
            self._news = True
        (self._unwatched.add if folder.unwatched else self._unwatched.discard)(folder.id)
        if folder.leftovers:
            self._database.atlas.memory.remove_leftovers(folder.project)
        now = self._clock()
        folder.rest_until = now + _REST * (now - began)

    def _may_differ(self, folder: Folder) -> bool:
        """Tell whether a project is to be scanned; one that cannot even be compared is."""
        try:
            return not folder.is_unchanged()
        except Exception:  # noqa: BLE001 - see below
            # Whatever is wrong with one project must not keep the sweep from the others.
            _log.exception("%s: cannot compare", folder.root)
            return True

    def _is_over(self, folder: Folder) -> bool:
        return folder.lost is not None and self._clock() - folder.lost_since >= self._timing.replaced_s

    def _lose(self, folder: Folder, reason: str) -> None:
        unwatch(folder, self._backend)
        self._lost.add(folder.id)
        self._unwatched.discard(folder.id)
        if folder.lost is None:
            folder.lost_since = self._clock()
            # Its files say nothing now. When it is back, all of them are compared.
            self._queue.forget(folder.id)
        if folder.lost != reason:
            _log.warning("%s is lost: %s", folder.root, reason)
            folder.lost = reason
            self._news = True

    def _sweep(self, now: float) -> None:
        if now >= self._sweep_at:
            self._to_sweep = deque(self._folders)
            self._sweep_at = now + self._timing.sweep_s
            if now >= self._compare_at:
                self._to_compare = set(self._folders)
            self._to_tell |= self._grown
            self._grown.clear()
        self._record_memory_thresholds()
        if now >= self._poll_at:
            self._poll_at = now + self._timing.poll_s
            self._to_sweep.extendleft(self._unwatched)
        for _ in range(min(_SWEPT_IN_A_ROW, len(self._to_sweep))):
            folder = self._folders.get(self._to_sweep[0])
            if folder is not None and folder.lost is None:
                # Still the first when the database goes away in between.
                self._compare(folder, now)
                if self._may_differ(folder):
                    self._to_scan[folder.id] = None
            self._to_sweep.popleft()

    def _compare(self, folder: Folder, now: float) -> None:
        """Look at every file again whose newest version is not what this daemon takes it for."""
        if not folder.loaded or folder.id not in self._to_compare:
            return
        began = self._cpu()
        try:
            found = list(stale_paths(folder, self._database.atlas))
        except AtlasError as error:
            if is_away(error):
                raise
            self._count("errors")
            _log.warning("%s: cannot compare with the database: %s", folder.root, error)
            found = []
        self._to_compare.discard(folder.id)
        for path in found:
            folder.stale.add(path)
            self._queue.mark(folder.id, path, ChangeKind.FOUND)
        self._compare_at = max(self._compare_at, now) + (self._cpu() - began) / _SHARE

    def _record_memory_thresholds(self) -> None:
        """Let an event be recorded where what was stored of late reaches a limit."""
        for _ in range(min(_SWEPT_IN_A_ROW, len(self._to_tell))):
            user_id = next(iter(self._to_tell))
            atlas = self._database.atlas
            try:
                atlas.quotas.record_memory_threshold(atlas.users.get(user_id))
            except AtlasError as error:
                if is_away(error):
                    raise
                self._count("errors")
                _log.warning("cannot tell how much the memory of user %s takes: %s", user_id, error)
            # Only now: when the database goes away in between, it is still to be told.
            self._to_tell.discard(user_id)

    def _look_for_lost(self, now: float) -> None:
        if now >= self._lost_at:
            self._lost_at = now + self._timing.lost_s
            for project in self._lost:
                if self._folders[project].is_back():
                    self._to_scan[project] = None

    # The rest.

    def _away(self, error: AtlasError) -> None:
        self._count("errors")
        self._database.failed(error, self._clock())

    def _count(self, name: str, number: int = 1) -> None:
        if number:
            self._counters[name] += number
            self._news = True

    def _next_at(self, now: float) -> float:
        times = [self._heartbeat_at, self._status_at if self._news else math.inf]
        if now < self._database.retry_at:
            return min(*times, self._database.retry_at)
        times += [self._projects_at, self._sweep_at]
        times.append(self._lost_at if self._lost else math.inf)
        times.append(self._poll_at if self._unwatched else math.inf)
        times.append(math.inf if self._maintenance is None else self._maintenance.next_at)
        return min(times)

    def _say(self, now: float) -> None:
        if now < self._heartbeat_at and not (self._news and now >= self._status_at):
            return
        began = self._cpu()
        self._report(self.status())
        took = self._cpu() - began
        self._news = False
        self._status_at = now + max(self._timing.status_s, took / _SHARE / 4)
        self._heartbeat_at = now + min(max(self._timing.heartbeat_s, took / _SHARE), self._timing.heartbeat_most_s)

    def status(self) -> Status:
        """Say how things are."""
        return evolve(
            self._started,
            written_at=datetime.now(UTC),
            ready=self.ready,
            backend=self._backend.name,
            database=self._database.status,
            pending=len(self._queue),
            counters={**self._counters, "events": self._queue.events, "watch_failures": len(self._unwatched)},
            projects=tuple(folder.status() for folder in self._folders.values()),
            maintenance=None if self._maintenance is None else self._maintenance.status,
        )

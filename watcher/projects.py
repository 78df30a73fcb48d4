"""The registered projects: look at a file or scan a project when it is due."""

import logging
from collections.abc import Callable, Iterable
from uuid import UUID

from attrs import define, field

from atlas_sdk import AtlasError, FileProblem, Project, QuotaExceeded
from atlas_sdk.files import hold, printable
from watcher.backend import Backend
from watcher.capture import capture
from watcher.captures import CaptureLog
from watcher.database import Database, is_away
from watcher.debounce import ChangeKind, Due, Timing
from watcher.event_queue import EventQueue
from watcher.folder import Folder
from watcher.scan import is_replaced, load, scan, unwatch
from watcher.scheduler import Scheduler

_log = logging.getLogger(__name__)

_COUNTERS = ("captures", "snapshots", "deletions", "scans", "overflows", "errors")
#: After a scan, a project is not scanned again for this many times the duration of the scan: others get their turn.
_REST = 4
#: Seconds until the next attempt, if the database refused a file for a reason that may pass.
_REFUSED_S = 5.0
#: Seconds until the next attempt, if a hard limit refused a file: somebody has to raise the limit first.
_FULL_S = 30.0


@define(eq=False, kw_only=True)
class WatchedProjects:
    """The watched projects, with the daemon's knowledge of each one. Only the worker's thread calls the methods."""

    _database: Database
    _backend: Backend
    _queue: EventQueue
    _timing: Timing
    _clock: Callable[[], float]
    _scheduler: Scheduler
    folders: dict[UUID, Folder] = field(init=False, factory=dict)
    _captures: CaptureLog = field(init=False, factory=CaptureLog)
    counters: dict[str, int] = field(init=False, factory=lambda: dict.fromkeys(_COUNTERS, 0))

    def update(self, registered: Iterable[Project]) -> None:
        """Add the projects that are new, and forget those that are gone or have moved."""
        found = {project.id: project for project in registered}
        for folder in list(self.folders.values()):
            project = found.get(folder.id)
            if project is None or project.path != folder.project.path:
                self._remove(folder)
            else:
                folder.project = project
        for project in found.values():
            if project.id not in self.folders:
                self.folders[project.id] = Folder(project)
                self._scheduler.request_scan(project.id)
                self._scheduler.news = True
        self._queue.projects = dict(self.folders)

    def _remove(self, folder: Folder) -> None:
        unwatch(folder, self._backend)
        del self.folders[folder.id]
        self._scheduler.forget(folder.id)
        self._queue.forget(folder.id)
        self._scheduler.news = True

    def count(self, name: str, number: int = 1) -> None:
        """Add to a counter of the status."""
        if number:
            self.counters[name] += number
            self._scheduler.news = True

    def look_at_project(self, project: UUID, *, last: bool = False) -> None:
        """Scan a project, but not before `rest_until`, unless `last` is true."""
        now = self._clock()
        self.look(Due(key=(project, ""), change=ChangeKind.FOUND, first=now, at=now), last=last)

    def look(self, due: Due, *, last: bool = False) -> None:
        """Store a file or scan a project that is due. Raises AtlasError when the database is away.

        `last` is true when the daemon ends. Then the call does not wait for `rest_until`, and plans no later attempt
        after a refusal.
        """
        project, path = due.key
        folder = self.folders.get(project)
        if folder is None or (path and folder.lost is not None):
            return
        try:
            if path:
                self._capture(folder, path, due.change, last=last)
            elif not last and folder.rest_until > self._clock():
                self._queue.put_back(due, folder.rest_until)
            else:
                self._scan(folder)
        except AtlasError as error:
            if is_away(error):
                self._queue.put_back(due, self._clock())
                raise
            full = isinstance(error, QuotaExceeded)
            self._note_problem(folder, path, f"{printable(path)}: {error}" if full else str(error))
            if not isinstance(error, FileProblem) and not last:
                self._queue.put_back(due, self._clock() + (_FULL_S if full else _REFUSED_S))
        except Exception as error:  # noqa: BLE001 - a fault in one file must not stop the others
            _log.exception("%s: cannot look at %s", folder.root, path)
            self._note_problem(folder, path, f"{type(error).__name__}; see the watcher's log")

    def _capture(self, folder: Folder, path: str, change: ChangeKind, *, last: bool) -> None:
        try:
            done = capture(folder, path, self._database.atlas, change=change, log=self._captures)
        except FileProblem:
            if folder.is_there():
                raise
            self._queue.mark(folder.id, "", ChangeKind.FOUND)
            return
        self.count("captures")
        self.count("snapshots", int(done.stored))
        self.count("deletions", int(done.deleted))
        if done.stored:
            self._scheduler.grew(folder.project.user_id)
        folder.note(path, None)
        if done.again is ChangeKind.VANISHED or (done.again is not None and not last):
            self._queue.mark(folder.id, path, done.again)
        if done.leads and not last:
            # Scan the project: the file may name other files, in folders that are not watched yet.
            self._queue.mark(folder.id, "", ChangeKind.CLOSED)

    def _note_problem(self, folder: Folder, path: str, problem: str) -> None:
        if folder.note(path, problem):
            self.count("errors")
            _log.warning("%s: %s", folder.root, problem)

    def _scan(self, folder: Folder) -> None:
        self.count("scans")
        load(folder, self._database.atlas)
        began = self._clock()
        try:
            with hold(folder.root) as root:
                if is_replaced(folder, root) and not self._is_accepted(folder):
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
            self._scheduler.news = True
        self._scheduler.found(folder.id, unwatched=bool(folder.unwatched))
        if folder.leftovers:
            self._database.atlas.memory.remove_leftovers(folder.project)
        now = self._clock()
        folder.rest_until = now + _REST * (now - began)

    def _is_accepted(self, folder: Folder) -> bool:
        """Return whether to accept a new folder as the project, because the project was lost `replaced_s` ago."""
        return folder.lost is not None and self._clock() - folder.lost_since >= self._timing.replaced_s

    def _lose(self, folder: Folder, reason: str) -> None:
        unwatch(folder, self._backend)
        self._scheduler.lost(folder.id)
        if folder.lost is None:
            folder.lost_since = self._clock()
            # Forget the waiting changes: when the folder is back, a scan compares every file.
            self._queue.forget(folder.id)
        if folder.lost != reason:
            _log.warning("%s is lost: %s", folder.root, reason)
            folder.lost = reason
            self._scheduler.news = True

    def may_differ(self, folder: Folder) -> bool:
        """Return whether to scan a project. A project that cannot be compared must be scanned."""
        try:
            return not folder.is_unchanged()
        except Exception:  # noqa: BLE001 - a fault in one project must not stop the sweep of the others
            _log.exception("%s: cannot compare", folder.root)
            return True

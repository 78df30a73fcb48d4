"""The registered projects: look at files and scan projects that are due, and put new versions into the journal."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

from attrs import define, evolve, field

from atlas_sdk import AtlasError, FileProblem, Project
from atlas_sdk.files import hold
from atlas_sdk.journal import Journal, JournalProblem, KnownHead
from watcher.backend import Backend
from watcher.capture import Look, Reader
from watcher.captures import CaptureLog
from watcher.debounce import ChangeKind, Due, Timing
from watcher.event_queue import EventQueue
from watcher.folder import Folder
from watcher.scan import is_replaced, scan, unwatch, watch_again
from watcher.scheduler import Scheduler

_log = logging.getLogger(__name__)

_COUNTERS = ("captures", "snapshots", "deletions", "scans", "overflows", "errors")
#: After a scan, a project is not scanned again for this many times the duration of the scan: others get their turn.
_REST = 4
#: The most content (bytes) in one append to the journal.
_APPEND_BYTES = 16 * 2**20
#: The most entries of `folder.known` that wait to be written. They only save work at the next start.
_HEADS = 1_000
_EPOCH = datetime.fromtimestamp(0, UTC)


class Deliverer(Protocol):
    """The thread that delivers the journal, as far as the worker needs it. No call blocks."""

    def appended(self, users: Iterable[UUID]) -> None:
        """Note that the journal has new versions of these users."""

    def compare_soon(self, project: UUID) -> None:
        """Ask for a comparison of a project with the database."""

    def tidy(self, project: UUID) -> None:
        """Ask for the removal of the temporary files that a killed restore has left."""


@define(eq=False, kw_only=True)
class WatchedProjects:
    """The watched projects, with the daemon's knowledge of each one. Only the worker's thread calls the methods."""

    _journal: Journal
    _deliverer: Deliverer
    _reader: Reader
    _backend: Backend
    _queue: EventQueue
    _timing: Timing
    _clock: Callable[[], float]
    _scheduler: Scheduler
    folders: dict[UUID, Folder] = field(init=False, factory=dict)
    _captures: CaptureLog = field(init=False, factory=CaptureLog)
    counters: dict[str, int] = field(init=False, factory=lambda: dict.fromkeys(_COUNTERS, 0))
    #: The reason why the last append failed; None if it did not.
    journal_problem: str | None = field(init=False, default=None)
    _pause_s: float = field(init=False, default=0.0)
    #: Entries of `folder.known` that differ from the journal in their signature only.
    _heads: dict[UUID, dict[str, KnownHead]] = field(init=False, factory=dict)

    def update(self, registered: Iterable[Project], heads: Mapping[UUID, Sequence[KnownHead]]) -> None:
        """Add the projects that are new, and forget those that are gone or have moved.

        `heads` has the newest versions of the files of new projects.
        """
        found = {project.id: project for project in registered}
        moved: dict[UUID, list[KnownHead]] = {}
        for folder in list(self.folders.values()):
            project = found.get(folder.id)
            if project is None or project.path != folder.project.path:
                self._remove(folder)
                moved[folder.id] = [evolve(head, signature=None) for head in folder.known.values()]
            else:
                folder.project = project
        fresh = []
        for project in found.values():
            if project.id not in self.folders:
                folder = Folder(project)
                for head in moved.get(project.id) or heads.get(project.id, ()):
                    folder.take(head)
                # Watch the folders of known files before the first listing, so that it need not be repeated.
                folder.folders = dict.fromkeys(above(folder.known))
                fresh.append(folder)
        self.folders.update((folder.id, folder) for folder in fresh)
        self._scheduler.request_scan(*(folder.id for folder in self.by_activity(fresh)))
        self._scheduler.news |= bool(fresh)
        self._queue.projects = dict(self.folders)

    def by_activity(self, folders: Iterable[Folder] | None = None) -> list[Folder]:
        """Return folders (all of them by default), the one with the newest capture first."""
        some = self.folders.values() if folders is None else folders
        return sorted(some, key=lambda folder: folder.active_at or _EPOCH, reverse=True)

    def _remove(self, folder: Folder) -> None:
        unwatch(folder, self._backend)
        del self.folders[folder.id]
        self._heads.pop(folder.id, None)
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
        self.look([Due(key=(project, ""), change=ChangeKind.FOUND, first=now, at=now)], last=last)

    def look(self, dues: Iterable[Due], *, last: bool = False) -> None:
        """Read files and scan projects that are due, and append the new versions to the journal in one write.

        `last` is true when the daemon ends. Then the call does not wait for `rest_until`, and plans no later attempt.
        """
        looks: list[tuple[Folder, Due, Look]] = []
        size = 0
        for due in dues:
            project, path = due.key
            folder = self.folders.get(project)
            if folder is None or (path and folder.lost is not None):
                continue
            look = self._look(folder, due, last=last)
            if look is None:
                continue
            if size + look.size > _APPEND_BYTES and looks:
                self._append(looks, last=last)
                looks, size = [], 0
            looks.append((folder, due, look))
            size += look.size
        self._append(looks, last=last)

    def _look(self, folder: Folder, due: Due, *, last: bool) -> Look | None:
        path = due.key[1]
        try:
            if path:
                return self._read(folder, path, due.change)
            if due.change is ChangeKind.FOUND and folder.identity is not None and not self.may_differ(folder):
                # No event asked for this scan, and `stat` shows that it would find nothing.
                self._scheduler.found(folder.id, unwatched=bool(folder.unwatched))
            elif not last and folder.rest_until > self._clock():
                self._queue.put_back(due, folder.rest_until)
            else:
                self._scan(folder)
        except AtlasError as error:
            self._note_problem(folder, path, str(error), state="unreadable")
        except Exception as error:  # noqa: BLE001 - a fault in one file must not stop the others
            _log.exception("%s: cannot look at %s", folder.root, path)
            self._note_problem(folder, path, f"{type(error).__name__}; see the watcher's log", state="problem")
        return None

    def _read(self, folder: Folder, path: str, change: ChangeKind) -> Look | None:
        try:
            return self._reader.look(folder, path, change=change)
        except FileProblem:
            if folder.is_there():
                raise
            self._queue.mark(folder.id, "", ChangeKind.FOUND)
            return None

    def _append(self, looks: Sequence[tuple[Folder, Due, Look]], *, last: bool) -> None:
        """Append the records of these files to the journal, and apply the looks once the journal has them."""
        records = [look.record for _, _, look in looks if look.record is not None]
        if records:
            heads = {project: dict(entries) for project, entries in self._heads.items()}
            for folder, _, look in looks:
                if look.head is not None:
                    heads.setdefault(folder.id, {})[look.path] = look.head
            try:
                self._journal.append(records, _as_lists(heads))
            except JournalProblem as problem:
                self._put_off(looks, str(problem), last=last)
                looks = [(folder, due, look) for folder, due, look in looks if look.record is None]
            except Exception as error:  # noqa: BLE001 - a fault in one version must not lose the others
                _log.exception("cannot append to the journal")
                # The fault may be in one of these. A lost head costs one more look at a file.
                self._heads = {}
                self._put_off(looks, f"{type(error).__name__}; see the watcher's log", last=last)
                looks = [(folder, due, look) for folder, due, look in looks if look.record is None]
            else:
                self._heads = {}
                self._pause_s = 0.0
                self._journal_answered()
                self._deliverer.appended({record.user_id for record in records})
        for folder, _, look in looks:
            self._apply(folder, look, last=last)

    def _put_off(self, looks: Sequence[tuple[Folder, Due, Look]], problem: str, *, last: bool) -> None:
        """Keep the files pending: the journal did not take their versions."""
        self._pause_s = min(max(2 * self._pause_s, self._timing.retry_s), self._timing.retry_most_s)
        if problem != self.journal_problem:
            _log.warning("%s; the changes are read again later", problem)
            self.journal_problem = problem
        self.count("errors")
        at = self._clock() + self._pause_s
        for folder, due, look in looks:
            if look.record is not None:
                folder.note(look.path, problem, state="pending")
                if not last:
                    self._queue.put_back(due, at)

    def _journal_answered(self) -> None:
        if self.journal_problem is not None:
            _log.info("the journal can be written again")
            self.journal_problem = None

    def _apply(self, folder: Folder, look: Look, *, last: bool) -> None:
        self.count("captures")
        folder.note(look.path, None)
        if look.record is not None:
            self._captures.tell(folder, look.record)
        if look.head is not None:
            folder.take(look.head)
        if look.record is not None:
            folder.stale.discard(look.path)
            self.count("deletions" if look.record.op == "deletion" else "snapshots")
        elif look.head is not None:
            self._heads.setdefault(folder.id, {})[look.path] = look.head
        if look.doubtful:
            self._deliverer.compare_soon(folder.id)
        if look.again is ChangeKind.VANISHED or (look.again is not None and not last):
            self._queue.mark(folder.id, look.path, look.again)
        if look.leads and not last:
            # Scan the project: the file may name other files, in folders that are not watched yet.
            self._queue.mark(folder.id, "", ChangeKind.CLOSED)

    def save_heads(self, *, last: bool = False) -> None:
        """Write entries of `folder.known` that changed without a record, if they are many or the daemon ends."""
        if self._heads and (last or sum(map(len, self._heads.values())) >= _HEADS):
            heads, self._heads = self._heads, {}
            try:
                self._journal.append([], _as_lists(heads))
            except JournalProblem as problem:
                # The entries only save work at the next start.
                _log.warning("%s; the next start reads %d files again", problem, sum(map(len, heads.values())))

    def _note_problem(self, folder: Folder, path: str, problem: str, *, state: str) -> None:
        if folder.note(path, problem, state=state):
            self.count("errors")
            _log.warning("%s: %s", folder.root, problem)

    def _scan(self, folder: Folder) -> None:
        self.count("scans")
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
            self._deliverer.tidy(folder.id)
        now = self._clock()
        folder.rest_until = now + _REST * (now - began)

    def _is_accepted(self, folder: Folder) -> bool:
        """Return whether to accept a new folder as the project, because the project was lost `replaced_s` ago."""
        return folder.lost is not None and self._clock() - folder.lost_since >= self._timing.replaced_s

    def _lose(self, folder: Folder, reason: str) -> None:
        unwatch(folder, self._backend)
        if folder.identity is None and not folder.project.had_folder:
            # A program registered a folder that never was on this machine. Only the sweep looks whether it is there.
            return
        self._scheduler.lost(folder.id)
        if folder.lost is None:
            folder.lost_since = self._clock()
            # Forget the waiting changes: when the folder is back, a scan compares every file.
            self._queue.forget(folder.id)
        if folder.lost != reason:
            _log.warning("%s is lost: %s", folder.root, reason)
            folder.lost = reason
            self._scheduler.news = True

    def look_at_mounts(self) -> None:
        """Scan the projects where a mount appeared or went, because no event reports it."""
        for point in self._backend.remounted():
            below = point.rstrip("/") + "/"
            for folder in self.folders.values():
                root = str(folder.root)
                if root == point or root.startswith(below) or point.startswith(f"{root}/"):
                    self._scheduler.request_scan(folder.id)

    def may_differ(self, folder: Folder) -> bool:
        """Return whether to scan a project. A project that cannot be compared must be scanned."""
        try:
            if folder.unwatched and folder.watch_again_at <= self._clock():
                # The limit on watches may have been raised, or the permissions changed, without an event.
                folder.watch_again_at = self._clock() + self._timing.sweep_s
                watch_again(folder, self._backend)
            return not folder.is_unchanged()
        except Exception:  # noqa: BLE001 - a fault in one project must not stop the sweep of the others
            _log.exception("%s: cannot compare", folder.root)
            return True


def above(paths: Iterable[str]) -> set[str]:
    """Return the folders that contain these paths, at any depth, without the project's own folder."""
    found: set[str] = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def _as_lists(heads: Mapping[UUID, Mapping[str, KnownHead]]) -> dict[UUID, list[KnownHead]]:
    return {project: list(entries.values()) for project, entries in heads.items()}

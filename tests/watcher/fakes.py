"""A sink, a backend and a client in memory."""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from attrs import frozen
from patience import PATIENCE_S

from atlas_sdk import Attribution, NotFound, Project, Snapshot
from atlas_sdk.journal import JournalProblem, JournalStatus, KnownHead, PendingFile, Record
from watcher.backend import Sink, WatchedFolder, Watching
from watcher.debounce import ChangeKind

#: A version and its content.
Version = tuple[Snapshot, bytes | None]


#: The watched folder, the name in it, the kind of change, and True if the name is a folder's.
Event = tuple[WatchedFolder | None, str | None, ChangeKind | None, bool]

OVERFLOW: Event = (None, None, None, False)


def root_changed(place: WatchedFolder) -> Event:
    """Return the event for a change of the watched folder itself."""
    return (place, None, None, True)


class FakeSink:
    """A receiver that keeps events. While its gate is closed, the backend waits."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.gate = threading.Event()
        self.gate.set()

    def changed(self, place: WatchedFolder, name: str, change: ChangeKind, *, is_folder: bool) -> None:
        self.gate.wait()
        self._events.put((place, name, change, is_folder))

    def root_changed(self, place: WatchedFolder) -> None:
        self._events.put(root_changed(place))

    def overflowed(self) -> None:
        self._events.put(OVERFLOW)

    def until(self, wanted: Event) -> list[Event]:
        """Wait for an event; return the events up to and with it."""
        seen: list[Event] = []
        while seen[-1:] != [wanted]:
            seen.append(self._events.get(timeout=PATIENCE_S))
        return seen


class FakeBackend:
    """A source of events that a test sends."""

    name = "fake"

    def __init__(self) -> None:
        self.watched: dict[WatchedFolder, tuple[int, int]] = {}
        #: Folders that cannot be watched, as paths in their project.
        self.refused: set[str] = set()
        #: The places where a mount appeared or went.
        self.mounts: frozenset[str] = frozenset()
        #: A function to call at the start of each `watch`.
        self.before_watch: Callable[[WatchedFolder], None] = lambda _: None

    def start(self, sink: Sink) -> None:
        self.sink = sink

    def watch(self, place: WatchedFolder, path: str) -> Watching:
        self.before_watch(place)
        if place.folder in self.refused:
            return Watching.REFUSED
        try:
            found = Path(path).stat()
        except FileNotFoundError:
            return Watching.GONE
        identity = (found.st_dev, found.st_ino)
        kept = self.watched.get(place) == identity
        self.watched[place] = identity
        return Watching.KEPT if kept else Watching.NEW

    def polled(self, place: WatchedFolder) -> str | None:
        return "it is refused" if place.folder in self.refused else None

    def unwatch(self, place: WatchedFolder) -> None:
        self.watched.pop(place, None)

    def remounted(self) -> frozenset[str]:
        points, self.mounts = self.mounts, frozenset()
        return points

    def stop(self) -> None:
        self.watched.clear()


class FakeJournal:
    """A journal in memory. It raises `problem` if it is set."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.known: dict[UUID, dict[str, KnownHead]] = {}
        self.remembered: list[Project] = []
        self.held: dict[UUID, str] = {}
        self.problem: JournalProblem | None = None
        self.appends = 0

    def append(self, records: Sequence[Record], heads: Mapping[UUID, Sequence[KnownHead]] | None = None) -> None:
        if self.problem is not None:
            raise self.problem
        self.appends += bool(records)
        self.records.extend(records)
        for project, of_project in (heads or {}).items():
            self.known.setdefault(project, {}).update({head.path: head for head in of_project})

    def pending(self) -> list[Record]:
        return list(self.records)

    def delivered(self, ids: Sequence[UUID]) -> None:
        self.records = [record for record in self.records if record.id not in ids]

    def is_empty(self, project: UUID | None = None) -> bool:
        return not any(project in {None, record.project_id} for record in self.records)

    def files(self, project: UUID) -> list[PendingFile]:
        found: dict[str, PendingFile] = {}
        for record in self.records:
            if record.project_id == project:
                found[record.path] = PendingFile(
                    path=record.path,
                    records=1,
                    bytes=record.size,
                    oldest_at=found[record.path].oldest_at if record.path in found else record.captured_at,
                    newest_at=record.captured_at,
                    sha256=record.sha256,
                    problem=self.held.get(record.id),
                )
        return list(found.values())

    def status(self) -> JournalStatus:
        return JournalStatus(records=len(self.records), held_back=len(self.held))

    def remember_projects(self, projects: Sequence[Project], *, complete: bool) -> None:
        assert complete
        self.remembered = list(projects)

    def forget_heads(self, project: UUID) -> None:
        self.known.pop(project, None)

    def heads(self, project: UUID | None = None) -> dict[UUID, list[KnownHead]]:
        return {one: list(known.values()) for one, known in self.known.items() if project in {None, one}}


@frozen(kw_only=True)
class Delivered:
    """The result of `FakeAtlas.deliver`."""

    delivered: int
    remaining: int
    problems: tuple[str, ...] = ()


class FakeAtlas:
    """The operations that the daemon calls, in memory; they raise `problem` if it is set."""

    def __init__(self, journal: FakeJournal) -> None:
        self.journal = journal
        #: The error that refuses a file, by path.
        self.refused: dict[str, Exception] = {}
        self.registered: list[Project] = []
        self.history: dict[tuple[UUID, str], list[Version]] = {}
        self.problem: Exception | None = None
        self.calls = 0
        #: The users whose memory was reported, in order.
        self.told: list[UUID] = []
        #: The projects whose leftovers were removed, in order.
        self.tidied: list[UUID] = []
        self.projects = self
        self.memory = self
        self.quotas = self
        self.maintenance: object = None
        self.users = self

    def add(self, root: Path) -> Project:
        now = datetime.now(UTC)
        project = Project(
            id=uuid.uuid4(),
            user_id=uuid.uuid4(),
            session_id=root.name,
            name=root.name,
            path=str(root),
            status="active",
            created_at=now,
            updated_at=now,
        )
        self.registered.append(project)
        return project

    def contents(self, project: Project, path: str) -> list[bytes | None]:
        return [content for _, content in self.history.get((project.id, path), [])]

    def list(self) -> tuple[Project, ...]:
        self._answer()
        return tuple(self.registered)

    def files(self, project: Project) -> tuple[Snapshot, ...]:
        self._answer()
        return tuple(versions[-1][0] for (owner, _), versions in self.history.items() if owner == project.id)

    def heads(self, projects: Sequence[Project]) -> Sequence[Snapshot]:
        return [version for project in projects for version in self.files(project)]

    def deliver(self, *, limit: int) -> Delivered:
        self._answer()
        done: list[UUID] = []
        waiting: set[tuple[UUID, str]] = set()
        problems: list[str] = []
        for record in self.journal.pending():
            key = (record.project_id, record.path)
            if key in waiting or len(done) == limit:
                continue
            if record.path in self.refused:
                waiting.add(key)
                problems.append(str(self.refused[record.path]))
                self.journal.held[record.id] = problems[-1]
                continue
            self._take(record)
            done.append(record.id)
            self.journal.held.pop(record.id, None)
        self.journal.delivered(done)
        return Delivered(delivered=len(done), remaining=len(self.journal.records), problems=tuple(problems))

    def _take(self, record: Record) -> None:
        self.calls += 1
        versions = self.history.setdefault((record.project_id, record.path), [])
        head = versions[-1][0] if versions else None
        sha256 = None if record.sha256 is None else record.sha256.hex()
        if sha256 is None and head is None:
            return
        if head is None or (head.sha256, head.mode) != (sha256, record.mode) or head.kept is False:
            mode = head.mode if record.mode < 0 and head is not None else record.mode
            if sha256 is None and head is not None and head.deleted:
                return
            self._append(
                record.user_id, record.project_id, record.path, record.kind, record.sha256, record.content, mode
            )

    def delete(self, project: Project, path: str, *, kind: str) -> Snapshot | None:
        self._answer()
        versions = self.history.get((project.id, path))
        if versions is None:
            raise NotFound("no such file", kind="file", name=path)
        return None if versions[-1][0].deleted else self.append(project, path, kind, None, None, 0)

    def remove_leftovers(self, project: Project) -> tuple[str, ...]:
        self._answer()
        self.tidied.append(project.id)
        return ()

    def get(self, user_id: UUID) -> UUID:
        return user_id

    def record_memory_threshold(self, user: UUID) -> None:
        self._answer()
        self.told.append(user)

    def close(self) -> None:
        return

    def _answer(self) -> None:
        if self.problem is not None:
            raise self.problem

    def append(
        self, project: Project, path: str, kind: str, sha256: bytes | None, content: bytes | None, mode: int
    ) -> Snapshot:
        return self._append(project.user_id, project.id, path, kind, sha256, content, mode)

    def _append(
        self,
        user_id: UUID,
        project_id: UUID,
        path: str,
        kind: str,
        sha256: bytes | None,
        content: bytes | None,
        mode: int,
    ) -> Snapshot:
        versions = self.history[project_id, path]
        made = Snapshot(
            id=uuid.uuid4(),
            user_id=user_id,
            project_id=project_id,
            path=path,
            seq=len(versions) + 1,
            kind=kind,
            sha256=sha256,
            size=len(content or b""),
            mode=mode,
            attribution=Attribution(source="watcher"),
            created_at=datetime.now(UTC),
        )
        versions.append((made, content))
        return made

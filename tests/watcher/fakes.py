"""A sink, a backend and a client in memory."""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from patience import PATIENCE_S

from atlas_sdk import Attribution, NotFound, Project, Snapshot
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


class FakeAtlas:
    """The operations that the worker calls, in memory; they raise `problem` if it is set."""

    def __init__(self) -> None:
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

    def snapshot(self, project: Project, path: str, state: Any, *, kind: str, context: Any = None) -> Snapshot | None:
        self._answer()
        self.calls += 1
        versions = self.history.setdefault((project.id, path), [])
        if versions and versions[-1][0].sha256 == state.sha256.hex() and versions[-1][0].kept is not False:
            return None
        return self.append(project, path, kind, state.sha256, state.content, state.mode)

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
        versions = self.history[project.id, path]
        made = Snapshot(
            id=uuid.uuid4(),
            user_id=project.user_id,
            project_id=project.id,
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

"""The surroundings of a simulated daemon: the store, the journal and the events of the kernel."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from uuid import UUID

from fakes import FakeAtlas, FakeBackend, FakeJournal

from atlas_sdk import Attribution, DatabaseUnreachable, NotFound, Project, Snapshot
from atlas_sdk._plan import GetContext, Local, Plan
from atlas_sdk.journal import Journal, JournalProblem, Record
from atlas_sdk.ops import delivery
from atlas_sdk.ops.new_version import NewVersion, Refused
from watcher.backend import WatchedFolder, Watching
from watcher.debounce import ChangeKind

T = TypeVar("T")

FULL = "the disk is full"


class Crash(BaseException):
    """The daemon was killed at this point."""


class World:
    """The state that the parts of a simulation share: the random choices, the clocks and the faults that are on."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        #: Added to the wall clock.
        self.leap_us = 0
        self.is_full = False
        #: The number of calls until the daemon is killed, by the name of the place; 0 is never.
        self.kills: dict[str, int] = {}
        #: Called while the daemon works: another program may act at this point.
        self.meanwhile: Callable[[], None] = lambda: None

    def wall(self) -> datetime:
        return datetime.fromtimestamp(1_800_000_000 + self.now + self.leap_us / 1e6, UTC)

    def pass_point(self, name: str) -> None:
        """Let another program act, and die here if it is planned."""
        if self.kills.pop(name, 0):
            raise Crash(name)
        self.meanwhile()


class SimulatedJournal(Journal):
    """The journal, in which an append may fail or be the last act of the daemon."""

    world: World
    acknowledged: dict[UUID, Record]

    @property
    def remembered(self) -> list[Project]:
        return self.projects()

    def append(self, records: Sequence[Record], heads: Any = None) -> None:
        if records:
            self.world.pass_point("before append")
        if self.world.is_full:
            raise JournalProblem(FULL, path="journal.db")
        super().append(records, heads)
        self.acknowledged.update((record.id, record) for record in records)
        if records:
            self.world.pass_point("after append")

    def delivered(self, ids: Any) -> None:
        self.world.pass_point("before mark")
        if self.world.is_full:
            # Let the library itself keep the marks.
            gone = {one.bytes for one in ids}
            self._unmarked = self._unmarked | gone
            raise JournalProblem(FULL, path="journal.db")
        super().delivered(ids)


class Store(FakeAtlas):
    """The database in memory: it has the rules of `append_many`. The library's own plans deliver to it."""

    def __init__(self, journal: SimulatedJournal, world: World) -> None:
        super().__init__(FakeJournal())
        self.real, self.world = journal, world
        self.ids: set[UUID] = set()
        self.away = self.slow = False
        self.limit = 500

    def _answer(self) -> None:
        if self.slow:
            self.world.now += 1.5
        self.world.pass_point("database")
        if self.away:
            raise DatabaseUnreachable("the database is away")

    def run(self, plan: Plan[T]) -> T:
        """Run a plan of the library."""
        places = SimpleNamespace(find=lambda: self.real, is_empty=self.real.is_empty)
        ctx = SimpleNamespace(journal=places, tenant=None, delivered=None, require_tenant=lambda _: None)
        answer: object = None
        problem: Exception | None = None
        while True:
            try:
                effect = plan.send(answer) if problem is None else plan.throw(problem)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            answer = problem = None
            if isinstance(effect, GetContext):
                answer = ctx
            else:
                assert isinstance(effect, Local)
                try:
                    answer = effect.call()
                except Exception as error:  # noqa: BLE001 - the plan handles it
                    problem = error

    def deliver(self, *, limit: int) -> Any:
        self._answer()
        return self.run(delivery.deliver(limit=min(limit, self.limit)))

    def append_many(self, news: Sequence[NewVersion]) -> Plan[list[Snapshot | Refused | None]]:
        """Append versions, as `atlas_sdk.ops.append_many` does."""
        yield from ()
        self.world.pass_point("store")
        self._answer()
        return [self.take(new) for new in news]

    def take(self, new: NewVersion) -> Snapshot | Refused | None:
        """Append a version, unless it is stored or equal to the head."""
        if new.snapshot_id in self.ids:
            return None
        versions = self.history.get((new.project_id, new.path), [])
        head = versions[-1][0] if versions else None
        if head is None and new.sha256 is None:
            return Refused(problem=NotFound("no such file", kind="file", name=new.path))
        if new.snapshot_id is not None:
            self.ids.add(new.snapshot_id)
        mode = head.mode if head is not None and new.mode < 0 else new.mode
        sha256 = None if new.sha256 is None else new.sha256.hex()
        if head is not None and (head.sha256, head.link, head.mode if sha256 else mode) == (sha256, new.link, mode):
            return None
        at = min(new.captured_at or self.world.wall(), self.world.wall())
        made = Snapshot(
            id=new.snapshot_id or uuid.UUID(int=self.world.random.getrandbits(128)),
            user_id=new.user_id,
            project_id=new.project_id,
            path=new.path,
            seq=len(versions) + 1,
            kind=new.kind,
            sha256=sha256,
            size=new.size,
            mode=mode,
            link=new.link,
            attribution=Attribution(source="watcher"),
            created_at=at if head is None else max(at, head.created_at),
        )
        self.history.setdefault((new.project_id, new.path), []).append((made, new.content))
        return made


class Kernel(FakeBackend):
    """A backend with a queue of events that waits until the simulation lets some of them go."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.waiting: list[tuple[WatchedFolder, str | None, ChangeKind, bool]] = []

    def watch(self, place: WatchedFolder, path: str) -> Watching:
        self.world.pass_point("watch")
        if not Path(path).is_dir() or Path(path).is_symlink():
            self.watched.pop(place, None)
            return Watching.GONE
        return super().watch(place, path)

    def changed(self, path: Path, change: ChangeKind, *, is_folder: bool = False) -> None:
        """Queue the event of an entry, for every place that watches its folder."""
        self._queue(path.parent, path.name, change, is_folder=is_folder)

    def itself(self, folder: Path, *, ends: bool) -> None:
        """Queue the event of a watched folder itself; `ends`: it is deleted, so its watch ends."""
        for place in self._queue(folder, None, ChangeKind.VANISHED, is_folder=True):
            if ends:
                del self.watched[place]

    def _queue(self, folder: Path, name: str | None, change: ChangeKind, *, is_folder: bool) -> list[WatchedFolder]:
        found = folder.stat()
        places = [place for place, one in self.watched.items() if one == (found.st_dev, found.st_ino)]
        self.waiting += [(place, name, change, is_folder) for place in places]
        return places

    def let_go(self, number: int) -> None:
        """Deliver the first events."""
        events, self.waiting = self.waiting[:number], self.waiting[number:]
        for place, name, change, is_folder in events:
            if name is None:
                self.sink.root_changed(place)
            else:
                self.sink.changed(place, name, change, is_folder=is_folder)

    def merge(self) -> None:
        """Merge equal events, as the kernel does with neighbours."""
        self.waiting = list(dict.fromkeys(self.waiting))

    def overflow(self) -> None:
        self.waiting = []
        self.sink.overflowed()

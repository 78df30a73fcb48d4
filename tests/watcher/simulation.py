"""A daemon, programs that write, and faults, in an order that a seed decides.

`Simulation(seed, folder).run()` does the steps, lets everything come to rest, and returns what is wrong then. Only the
seed decides: the clocks are simulated, and the files are real.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import cast
from uuid import UUID

from attrs import evolve
from fakes import FakeJournal
from rig import Rig
from simulated import Crash, Kernel, SimulatedJournal, Store, World
from simulated_disk import FILES, NOTHING, PATHS, Disk, State

from atlas_sdk import Project, Snapshot, Tracking
from atlas_sdk.files import FileState, Root
from atlas_sdk.ops import delivery
from atlas_sdk.ops.new_version import NewVersion


class Simulation:
    """One run. A seed of an odd number also loses events without a word; then only the sweep finds the changes."""

    def __init__(self, seed: int, folder: Path, *, steps: int = 40) -> None:
        self.steps_left, self.world, self.silent = steps, World(seed), bool(seed % 2)
        self.steps: list[str] = []
        self.disk = Disk(folder / "app", self.world)
        self.disk.root.mkdir()
        self.journal = SimulatedJournal.open(folder / "home")
        self.journal.world, self.journal.acknowledged = self.world, {}
        self.store = Store(self.journal, self.world)
        self.project: Project = self.store.add(self.disk.root)
        #: The ids of the versions that another client stored.
        self.of_clients: set[UUID] = set()
        self.rig: Rig
        self._depth = 0

    def run(self) -> list[str]:
        """Do every step, come to rest, and return what is wrong."""
        try:
            self._start()
            self.world.meanwhile = self._meanwhile
            for _ in range(self.steps_left):
                self._guarded(self._step)
            self.steps.append("rest")
            self._rest()
            return self._wrong()
        finally:
            self.journal.close()

    def _start(self) -> None:
        self.kernel = Kernel(self.world)
        self.disk.kernel = None
        sweep_s = 20.0 if self.silent else 1e9
        self.rig = Rig(
            journal=cast("FakeJournal", self.journal),
            atlas=self.store,
            backend=self.kernel,
            clock=lambda: self.world.now,
            sweep_s=sweep_s,
        )
        self.disk.kernel = self.kernel

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Crash as crash:
            self.steps.append(f"  killed: {crash}")
            self._start()

    def _meanwhile(self) -> None:
        if self._depth == 0 and self.world.random.random() < 0.03:
            self._depth += 1
            self.steps.append(f"  meanwhile {self.disk.change()}")
            self._depth -= 1

    def _step(self) -> None:
        kinds = ["change"] * 10 + ["time"] * 8 + ["events"] * 5 + ["shuffle"] * 3 + ["overflow"] * 2 + ["kill"] * 2
        kinds += ["merge", "away", "slow", "full", "direct", "leap", "quick"]
        kind = self.world.random.choice(kinds + ["lose", "stray"] * self.silent)
        at = len(self.steps)
        self.steps.append(kind)
        self.steps[at] += f" {getattr(self, f'_{kind}')() or ''}".rstrip()

    def _change(self) -> str:
        return self.disk.change()

    def _time(self, *choices: float) -> None:
        self.world.now += self.world.random.choice((0.01, 0.06, 0.3, 0.7, 3.0))
        self._work()

    def _quick(self) -> None:
        # The worker alone: the delivery is busy.
        self.world.now += 0.3
        self.rig.work()

    def _work(self) -> None:
        for _ in range(200):
            self.rig.work()
            is_idle = self.rig.delivery.step() > self.world.now and not self.rig.queue.has_messages
            # A file that the last step found is due at once.
            at = self.rig.queue._debouncer.next_at()
            if is_idle and (at is None or at > self.world.now):
                return
        raise AssertionError("the daemon never comes to rest")

    def _events(self) -> None:
        self.kernel.let_go(self.world.random.randint(1, 8))

    def _shuffle(self) -> None:
        self.world.random.shuffle(self.kernel.waiting)

    def _merge(self) -> None:
        self.kernel.merge()

    def _overflow(self) -> None:
        self.kernel.overflow()

    def _lose(self) -> None:
        self.kernel.waiting = self.kernel.waiting[3:]

    def _kill(self) -> str:
        where = self.world.random.choice(("now", "before append", "after append", "store", "before mark", "watch"))
        if where == "now":
            raise Crash(where)
        self.world.kills[where] = 1
        return where

    def _away(self) -> str:
        self.store.away = not self.store.away
        return str(self.store.away)

    def _slow(self) -> None:
        self.store.slow = not self.store.slow
        self.store.limit = self.world.random.choice((1, 2, 500))

    def _full(self) -> str:
        self.world.is_full = not self.world.is_full
        return str(self.world.is_full)

    def _leap(self) -> None:
        """Set the wall clock: the times of captures go back or far ahead."""
        self.world.leap_us += self.world.random.choice((-3_000_000, 2_000_000, -100_000_000, 3_600_000_000))

    def _direct(self) -> str:
        """Let another client store what is on the disk."""
        path = self.world.random.choice(FILES[:4])
        state = self.disk.read(path)
        return "nothing" if state is None else self._put(state)

    def _stray(self) -> str:
        """Let another client store a content that is not on the disk."""
        text = f"stray {len(self.steps)}".encode()
        state = self.disk.read("CLAUDE.md")
        if state is None:
            return "nothing"
        return self._put(evolve(state, content=text, sha256=sha256(text).digest(), size=len(text)))

    def _put(self, state: FileState) -> str:
        if self.store.away:
            return "nothing: the database is away"
        kills, self.world.kills = self.world.kills, {}
        self._depth += 1
        try:
            self.store.run(delivery.deliver_first(self.project))
            new = NewVersion(
                user_id=self.project.user_id,
                project_id=self.project.id,
                path=state.path,
                content=state.content,
                sha256=state.sha256,
                size=state.size,
                mode=state.mode,
                link=state.link,
                kind="auto",
            )
            made = self.store.take(new)
            if isinstance(made, Snapshot):
                self.of_clients.add(made.id)
            seen = self.disk.seen[state.path]
            seen += [(state.content, state.mode, state.link), seen[-1]]
        finally:
            self._depth -= 1
            self.world.kills = kills
        return state.path

    def _rest(self) -> None:
        self.world.kills, self.world.meanwhile = {}, lambda: None
        self.store.away = self.store.slow = self.world.is_full = False
        self.store.limit = 500
        # A clock that went back has reached its old time again.
        self.world.leap_us += 4_000_000_000
        for _ in range(30 if self.silent else 14):
            self.kernel.let_go(len(self.kernel.waiting))
            self.world.now += 2.0
            self._work()

    def _wrong(self) -> list[str]:
        wrong = []
        tracked = set(Tracking.load(Root(self.disk.root)).scan(Root(self.disk.root)).paths)
        for path in PATHS:
            wrong += [f"{path}: {one}" for one in self._wrong_file(path, tracked=path in tracked)]
        wrong += [f"record {one} is lost" for one in self.journal.acknowledged.keys() - self.store.ids - self._unmade()]
        if self.journal.status().records:
            wrong.append("the journal is not empty")
        status = self.rig.worker.status()
        if status.pending:
            wrong.append(f"{status.pending} files are pending")
        for file in self.rig.status_of(self.project).files:
            is_saved = file.path in PATHS and self._head(file.path) == self.disk.seen[file.path][-1]
            if (file.path in tracked and file.state != "saved") or (file.state == "saved" and not is_saved):
                wrong.append(f"{file.path}: the status says {file.state}: {file.why}")
        return wrong

    def _unmade(self) -> set[object]:
        """Return the deletions of files of which no version was stored: the delivery drops them."""
        return {one.id for one in self.journal.acknowledged.values() if one.op == "deletion"}

    def _stored(self, path: str) -> list[State]:
        versions = self.store.history.get((self.project.id, path), [])
        return [NOTHING if one.deleted else (content, one.mode, one.link) for one, content in versions]

    def _head(self, path: str) -> State:
        return [NOTHING, *self._stored(path)][-1]

    def _wrong_file(self, path: str, *, tracked: bool) -> list[str]:
        versions = self.store.history.get((self.project.id, path), [])
        stored = self._stored(path)
        state, head = self.disk.seen[path][-1], self._head(path)
        wrong = []
        # A client may have stored a content without a file: if the daemon never saw the file, the content stays.
        is_strange = bool(versions) and versions[-1][0].id in self.of_clients
        if head != state and (tracked or (state == NOTHING and not is_strange)):
            wrong.append(f"the head is {head}, and the disk has {state}")
        if any(one == two for one, two in itertools.pairwise(stored)):
            wrong.append(f"the history repeats a version: {stored}")
        seen = iter(self.disk.seen[path])
        if not all(any(one == two for two in seen) for one in stored):
            wrong.append(f"the history {stored} is not in the order of {self.disk.seen[path]}")
        times = [one.created_at for one, _ in versions]
        if times != sorted(times):
            wrong.append("the times are not in order")
        return wrong


def in_a_folder(seed: int, folder: Path, *, steps: int = 40) -> str:
    """Run one seed in a new folder; return "" or a report that says how to replay it."""
    place = folder / str(seed)
    place.mkdir()
    one = Simulation(seed, place, steps=steps)
    try:
        wrong = one.run()
    except Exception as error:
        wrong = [repr(error)]
        if os.environ.get("ATLAS_SIM_SEED"):
            raise
    finally:
        shutil.rmtree(place)
    return "\n".join([f"ATLAS_SIM_SEED={seed}", *one.steps, *wrong]) if wrong else ""

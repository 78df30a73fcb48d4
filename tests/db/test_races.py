"""Races of two clients: the steps of their plans run in every order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from attrs import evolve
from journaling import records

from atlas_sdk import Atlas, Attribution, InvalidInput, Project
from atlas_sdk._connect import new_id
from atlas_sdk._context import Context
from atlas_sdk._drive.cursor import arguments
from atlas_sdk._drive.scope import Scope
from atlas_sdk._heads import HeadCache
from atlas_sdk._plan import Local, Plan, Query, Result
from atlas_sdk.journal import ClientJournal, Journal
from atlas_sdk.ops import checkpoints, delivery, memory

BODY = b"".join(b"line %d of the rules\n" % n for n in range(30))


class Stepper:
    """A driver of one plan at a time, on its own connection. Each step is one statement."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        # Without a limit, a step that waits for the other plan's transaction would wait for ever.
        self._connection.execute("SET lock_timeout = '10s'")
        self.context = Context(
            new_id=new_id, attribution=Attribution(login="ada"), heads=HeadCache(), monotonic=time.monotonic
        )

    def close(self) -> None:
        self._connection.close()

    def start(self, plan: Plan[Any]) -> None:
        self.done = False
        self.result: Any = None
        self._plan = plan
        self._scope = Scope(self.context)
        self._advance(None)

    def _advance(self, answer: object) -> None:
        """Go on to the next statement. Effects that need no database are not steps."""
        try:
            self._effect = self._plan.send(answer)
            while isinstance(self._effect, Local) or type(self._effect).__name__ == "GetContext":
                local = isinstance(self._effect, Local)
                self._effect = self._plan.send(self._effect.call() if local else self._scope.context)
        except StopIteration as stop:
            self.done, self.result = True, stop.value

    def step(self) -> str:
        """Run the next statement; return its name."""
        effect = self._effect
        if isinstance(effect, Query):
            cursor = self._connection.execute(*arguments(effect))
            rows = [] if cursor.description is None else cursor.fetchall()
            columns = tuple(column.name for column in cursor.description or ())
            self._advance(Result(columns, rows, cursor.rowcount))
            return effect.statement.name
        for command in self._scope.commands(effect):
            self._connection.execute(command)
        self._scope.completed(effect)
        self._advance(None)
        return type(effect).__name__

    def run(self, plan: Plan[Any]) -> Any:
        self.start(plan)
        while not self.done:
            self.step()
        return self.result


def interleavings(run: Callable[[Callable[[], int]], None]) -> int:
    """Call `run` once for every sequence of choices that it can make; return the number of sequences."""
    prefix: list[int] = []
    count = 0
    while True:
        taken: list[int] = []

        def choose(prefix: list[int] = prefix, taken: list[int] = taken) -> int:
            taken.append(prefix[len(taken)] if len(taken) < len(prefix) else 0)
            return taken[-1]

        run(choose)
        count += 1
        while taken and taken[-1] == 1:
            taken.pop()
        if not taken:
            return count
        prefix = [*taken[:-1], 1]


class Pair:
    """Two clients that race for one file. Every race uses a new file."""

    def __init__(self, dsn: str, project: Project, reader: Atlas, *, warm: bool) -> None:
        self.both = (Stepper(dsn), Stepper(dsn))
        self.project = project
        self.reader = reader
        self.warm = warm
        self.races = 0

    def new_file(self) -> str:
        self.races += 1
        path = f"notes/{self.races}.md"
        first, second = self.both
        first.run(memory.snapshot(self.project, path, BODY))
        if self.warm:
            second.run(memory.snapshot(self.project, path, BODY))
        else:
            first.context.heads.clear()
        return path

    def race(self, choose: Callable[[], int], *plans: Plan[Any]) -> list[str]:
        for stepper, plan in zip(self.both, plans, strict=True):
            stepper.start(plan)
        trace = []
        while not all(stepper.done for stepper in self.both):
            who = choose() if not any(stepper.done for stepper in self.both) else int(self.both[0].done)
            trace.append(f"{who}:{self.both[who].step()}")
        return trace

    def history(self, path: str) -> list[bytes | None]:
        """Check that the numbers of versions have no gap; return the contents, oldest first; None for a deletion."""
        found = [v for v in self.reader.memory.history(self.project, path)[::-1] if v.kind != "checkpoint"]
        assert [version.seq for version in found] == list(range(1, len(found) + 1))
        assert self.reader.memory.history(self.project, path)[0].seq == len(found)
        return [None if version.deleted else self.reader.memory.content(version) for version in found]


@pytest.fixture(params=[True, False], ids=["warm", "cold"])
def pair(request: pytest.FixtureRequest, dsn: str, atlas: Atlas, folder: Path) -> Iterator[Pair]:
    project = atlas.projects.create(atlas.users.create("ada@example.com"), path=folder)
    made = Pair(dsn, project, atlas, warm=request.param)
    with closing(made.both[0]), closing(made.both[1]):
        yield made
    assert atlas.memory.verify(atlas.users.by_email("ada@example.com")).ok


def test_two_snapshots_in_every_order(pair: Pair) -> None:
    one, two = BODY + b"one\n", BODY + b"two\n"

    def run(choose: Callable[[], int]) -> None:
        path = pair.new_file()
        trace = pair.race(choose, *(memory.snapshot(pair.project, path, content) for content in (one, two)))
        first, second = pair.both
        expected = sorted([(first.result.seq, one), (second.result.seq, two)])
        assert [(n, content) for n, content in enumerate(pair.history(path), 1) if n > 1] == expected, trace

    assert interleavings(run) >= (2 if pair.warm else 6)


def test_the_same_content_twice_is_one_version_in_every_order(pair: Pair) -> None:
    def run(choose: Callable[[], int]) -> None:
        path = pair.new_file()
        trace = pair.race(choose, *(memory.snapshot(pair.project, path, b"same") for _ in pair.both))
        assert pair.history(path) == [BODY, b"same"], trace
        assert [stepper.result is None for stepper in pair.both].count(True) == 1

    assert interleavings(run) >= 2


def test_two_first_versions_in_every_order(pair: Pair) -> None:
    def run(choose: Callable[[], int]) -> None:
        pair.races += 1
        path = f"notes/{pair.races}.md"
        trace = pair.race(choose, *(memory.snapshot(pair.project, path, content) for content in (b"one", b"two")))
        assert sorted(pair.history(path)) == [b"one", b"two"], trace

    assert interleavings(run) >= 6


def test_a_snapshot_and_a_checkpoint_in_every_order(pair: Pair) -> None:
    """The checkpoint has the new version if and only if its statement came after the put."""
    reader, project = pair.reader, pair.project

    def run(choose: Callable[[], int]) -> None:
        path = pair.new_file()
        name = f"c{pair.races}"
        trace = pair.race(choose, memory.snapshot(project, path, b"new"), checkpoints.checkpoint(project, name))
        last_put = max(n for n, step in enumerate(trace) if step == "0:memory.put")
        after = trace.index("1:checkpoints.create") > last_put
        assert reader.memory.read(project, path, name) == (b"new" if after else BODY), trace
        assert pair.history(path) == [BODY, b"new"]

    assert interleavings(run) >= 6


def test_a_snapshot_and_a_deletion_in_every_order(pair: Pair) -> None:
    def run(choose: Callable[[], int]) -> None:
        path = pair.new_file()
        trace = pair.race(choose, memory.snapshot(pair.project, path, b"new"), memory.delete(pair.project, path))
        written, deleted = (stepper.result for stepper in pair.both)
        assert {written.seq, deleted.seq} == {2, 3}, trace
        assert pair.history(path) == ([BODY, b"new", None] if deleted.seq == 3 else [BODY, None, b"new"]), trace

    assert interleavings(run) >= 2


def test_two_deletions_are_one_in_every_order(pair: Pair) -> None:
    def run(choose: Callable[[], int]) -> None:
        path = pair.new_file()
        pair.race(choose, *(memory.delete(pair.project, path) for _ in pair.both))
        assert pair.history(path) == [BODY, None]

    assert interleavings(run) >= 2


def test_a_deletion_is_recorded_after_another_clients_new_version(pair: Pair) -> None:
    path = pair.new_file()
    first, second = pair.both
    first.run(memory.delete(pair.project, path))
    assert first.run(memory.delete(pair.project, path)) is None
    second.run(memory.snapshot(pair.project, path, b"back"))
    assert first.run(memory.delete(pair.project, path)) is not None
    assert pair.history(path) == [BODY, None, b"back", None]


def test_a_transaction_that_ends_without_an_error_is_kept(atlas: Atlas, folder: Path) -> None:
    """The transaction is kept even if the database refused an operation in it and the caller went on."""
    project = atlas.projects.create(atlas.users.create("ada@example.com"), path=folder)
    with atlas.transaction() as step:
        step.memory.snapshot(project, "CLAUDE.md", b"one")
        with suppress(InvalidInput):
            step.memory.snapshot(project, "d/" * 1500 + "x.md", b"x")
    assert atlas.memory.read(project, "CLAUDE.md") == b"one"


@pytest.mark.parametrize("pair", [True], ids=["warm"], indirect=True)
@pytest.mark.parametrize("other", ["deliver", "snapshot"])
def test_two_deliveries_of_the_same_records_in_every_order(pair: Pair, tmp_path: Path, other: str) -> None:
    """The other client delivers all records too, or delivers them first and then writes directly."""
    for stepper in pair.both:
        stepper.context = evolve(stepper.context, journal=ClientJournal(tmp_path / "home"))
    keys = {"user_id": pair.project.user_id, "project_id": pair.project.id}
    direct = [b"direct"] if other == "snapshot" else []

    def run(choose: Callable[[], int]) -> None:
        path = pair.new_file()
        journal.append(records(b"1", None, b"2", path=path, **keys))
        second = delivery.deliver() if other == "deliver" else memory.snapshot(pair.project, path, b"direct")
        trace = pair.race(choose, delivery.deliver(), second)
        assert pair.history(path) == [BODY, b"1", None, b"2", *direct], trace
        assert journal.is_empty()

    with Journal.open(tmp_path / "home") as journal:
        assert interleavings(run) >= 6
    for stepper in pair.both:
        stepper.context.journal.close()

"""Races: plans stepped in every order, many processes at once, and kill -9 of writers and of the server."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from patience import PATIENCE_S

from atlas_sdk import AsyncAtlas, Atlas, AtlasError, Attribution, InvalidInput, Project
from atlas_sdk._connect import new_id
from atlas_sdk._context import Context
from atlas_sdk._drive.cursor import arguments
from atlas_sdk._drive.scope import Scope
from atlas_sdk._embedded import EmbeddedServer, locks
from atlas_sdk._heads import HeadCache
from atlas_sdk._plan import Local, Plan, Query, Result
from atlas_sdk.ops import checkpoints, memory

BODY = b"".join(b"line %d of the rules\n" % n for n in range(30))


class Stepper:
    """Drives one plan at a time on a connection of its own, one statement a step."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        # A step that waits for the other plan's transaction would wait for ever.
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
        """Go on to the next statement; what needs no database is no step."""
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
    """Call `run` once for every sequence of choices that it can make; return how many there are."""
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
    """Two clients that race for one file; every race has a file of its own."""

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
        """Every version's content, oldest first; None for a deletion. Numbers must have no gap."""
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
    """The checkpoint has the new version exactly if its own statement came after the put."""
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
    """Also when an operation in it was refused by the database, and the caller went on."""
    project = atlas.projects.create(atlas.users.create("ada@example.com"), path=folder)
    with atlas.transaction() as step:
        step.memory.snapshot(project, "CLAUDE.md", b"one")
        with suppress(InvalidInput):
            step.memory.snapshot(project, "d/" * 1500 + "x.md", b"x")
    assert atlas.memory.read(project, "CLAUDE.md") == b"one"


START = """
import os, sys
from atlas_sdk import *
dsn, folder, me = sys.argv[1:]
body = b"".join(b"line %d of the rules\\n" % n for n in range(30))
with Atlas.open(dsn) as atlas:
    print("ready", flush=True)
    sys.stdin.readline()
"""
WRITE = """
    project = atlas.projects.by_path(folder)
    for n in range(COUNT):
        version = atlas.memory.snapshot(project, "CLAUDE.md", body + b"%s %d\\n" % (me.encode(), n))
        print(n, version.seq, flush=True)
"""
REGISTER = """
    for n in range(12):
        try:
            mine = atlas.users.create(f"u{n}@example.com").id
        except AlreadyExists:
            mine = "taken"
        user = atlas.users.by_email(f"u{n}@example.com")
        try:
            project = atlas.projects.create(user, path=f"{folder}/{n}").id
        except AlreadyExists:
            project = "taken"
        with Atlas.open(dsn, attribution=Attribution(login=f"login{n}")) as client:
            local = client.users.local().id
        print(mine, project, local, flush=True)
        sys.stdin.readline()
"""


@contextmanager
def processes(count: int, code: str, dsn: str, folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Start processes that run this code at one word; kill -9 what is left of them."""
    with ExitStack() as stack:
        made = []
        for n in range(count):
            command = [sys.executable, "-c", START + code, dsn, str(folder), f"p{n}"]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            made.append(stack.enter_context(process))
            stack.callback(process.kill)
        for process in made:
            assert process.stdout.readline() == "ready\n"
        go(made)
        yield made


def go(made: list[subprocess.Popen[str]]) -> None:
    for process in made:
        process.stdin.write("\n")
        process.stdin.flush()


def test_eight_processes_write_one_file(atlas: Atlas, dsn: str, folder: Path) -> None:
    user = atlas.users.create("ada@example.com")
    project = atlas.projects.create(user, path=folder)
    with processes(8, WRITE.replace("COUNT", "25"), dsn, folder) as made:
        answers = [process.communicate(timeout=PATIENCE_S)[0].split("\n")[:-1] for process in made]
    seqs = [[int(line.split()[1]) for line in lines] for lines in answers]
    assert [len(mine) for mine in seqs] == [25] * 8
    # Each process sees its own versions in order, and all of them share the numbers.
    assert all(mine == sorted(mine) for mine in seqs)
    assert sorted(seq for mine in seqs for seq in mine) == list(range(1, 201))
    history = atlas.memory.history(project, "CLAUDE.md", limit=500)
    assert [version.seq for version in history] == list(range(200, 0, -1))
    expected = {BODY + b"p%d %d\n" % (who, n) for who in range(8) for n in range(25)}
    assert {atlas.memory.content(version) for version in history} == expected
    for who, mine in enumerate(seqs):
        for n, seq in enumerate(mine):
            assert atlas.memory.content(history[200 - seq]) == BODY + b"p%d %d\n" % (who, n)
    verified = atlas.memory.verify(user)
    assert (verified.ok, verified.versions, verified.contents) == (True, 200, 200)


def test_two_processes_register_the_same_at_once(atlas: Atlas, dsn: str, folder: Path) -> None:
    with processes(2, REGISTER, dsn, folder) as made:
        for n in range(12):
            answers = [process.stdout.readline().split() for process in made]
            for column in (0, 1):
                got = [answer[column] for answer in answers]
                assert got.count("taken") == 1, f"round {n}: {got}"
            # The local user is nobody's in particular: both get the same one.
            assert answers[0][2] == answers[1][2]
            go(made)
    with psycopg.connect(dsn) as connection:
        counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("users", "projects")]
        assert counts == [(24,), (12,)]


def wait_until_alone(dsn: str) -> None:
    """Wait until no other backend is left: that of a killed client may still be about to commit."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in locks.polling(PATIENCE_S):
            others = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchone()
            if others == (0,):
                return
    pytest.fail("the backend of a killed client is still there")


def test_a_killed_writer_leaves_a_whole_history(dsn: str, folder: Path) -> None:
    with Atlas.open(dsn) as atlas:
        user = atlas.users.create("ada@example.com")
        project = atlas.projects.create(user, path=folder)
    before = 0
    for lines in (1, 7, 20):
        code = WRITE.replace("COUNT", "10_000").replace("me.encode()", f"b'{lines}'")
        with processes(1, code, dsn, folder) as (child,):
            acknowledged = [int(child.stdout.readline().split()[1]) for _ in range(lines)]
            child.send_signal(signal.SIGKILL)
            # A line that was cut short is no answer.
            acknowledged += [int(line.split()[1]) for line in child.stdout.read().split("\n")[:-1]]
        wait_until_alone(dsn)
        with Atlas.open(dsn) as atlas:
            history = atlas.memory.history(project, "CLAUDE.md", limit=1000)[::-1]
            assert [version.seq for version in history] == list(range(1, len(history) + 1))
            # The child's versions are the first ones that it wrote, in its order; at most one came without an answer.
            assert acknowledged == list(range(before + 1, before + 1 + len(acknowledged)))
            assert len(acknowledged) <= len(history) - before <= len(acknowledged) + 1
            for n, version in enumerate(history[before:]):
                assert atlas.memory.content(version) == BODY + b"%d %d\n" % (lines, n)
            assert atlas.memory.verify(user).ok
        before = len(history)


@pytest.fixture(scope="module")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of our own: its server is going to be killed."""
    home = tmp_path_factory.mktemp("killed") / "home"
    server = EmbeddedServer.acquire(home)
    yield home
    server.release()
    for _ in locks.polling(PATIENCE_S):
        if not (server.data_dir / "postmaster.pid").exists():
            break
    shutil.rmtree(server.data_dir)


def kill_server(home: Path) -> None:
    os.kill(int((home / "postgres" / "postmaster.pid").read_text().split("\n")[0]), signal.SIGKILL)


class Writing:
    """What a writer was told while the server died: which versions are acknowledged, and how often it failed."""

    def __init__(self, home: Path) -> None:
        self.acknowledged: list[bytes] = []
        self.failures: list[AtlasError] = []
        self._due = threading.Event()
        self._killer = threading.Thread(target=self._kill, args=[home])
        self._killer.start()

    def _kill(self, home: Path) -> None:
        assert self._due.wait(PATIENCE_S)
        kill_server(home)

    def contents(self) -> Iterator[bytes]:
        for n in range(40):
            if n == 10:
                self._due.set()
            if n == 25:
                self._killer.join()
            yield BODY + b"%d\n" % n

    def check(self, kept: list[bytes]) -> None:
        assert set(self.acknowledged) <= set(kept)
        assert kept == sorted(kept, key=lambda content: int(content.split()[-1]))
        assert len(self.acknowledged) + len(self.failures) == 40
        assert len(self.failures) <= 3, self.failures
        assert self.acknowledged[-1] == BODY + b"39\n"


def test_killing_the_server_loses_no_acknowledged_version(own_home: Path, folder: Path) -> None:
    with Atlas.open(home=own_home) as atlas:
        user = atlas.users.create("ada@example.com")
        project = atlas.projects.create(user, path=folder)
        writing = Writing(own_home)
        for content in writing.contents():
            try:
                atlas.memory.snapshot(project, "CLAUDE.md", content)
                writing.acknowledged.append(content)
            except AtlasError as failure:
                writing.failures.append(failure)
        writing.check([atlas.memory.content(v) for v in atlas.memory.history(project, "CLAUDE.md")[::-1]])
        assert atlas.memory.verify(user).ok


def test_killing_the_server_loses_no_acknowledged_version_on_asyncio(own_home: Path, folder: Path) -> None:
    async def scenario() -> None:
        async with AsyncAtlas.open(home=own_home) as atlas:
            user = await atlas.users.create("bob@example.com")
            project = await atlas.projects.create(user, path=folder)
            writing = Writing(own_home)
            for content in writing.contents():
                try:
                    await atlas.memory.snapshot(project, "CLAUDE.md", content)
                    writing.acknowledged.append(content)
                except AtlasError as failure:
                    writing.failures.append(failure)
            history = await atlas.memory.history(project, "CLAUDE.md")
            writing.check([await atlas.memory.content(version) for version in history[::-1]])
            assert (await atlas.memory.verify(user)).ok

    asyncio.run(scenario())

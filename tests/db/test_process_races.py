"""Processes that write to one project at the same time, while they or their server are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import programs
import psycopg
import pytest
from databases import kept_backends
from embedded_homes import embedded_server
from patience import PATIENCE_S

from atlas_sdk import AsyncAtlas, Atlas, AtlasError
from atlas_sdk._embedded import locks

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

BODY = b"".join(b"line %d of the rules\n" % n for n in range(30))


@contextmanager
def processes(count: int, code: str, dsn: str, folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Start processes that run this code at the same time; kill -9 those that still run at the end."""
    with ExitStack() as stack:
        made = []
        for n in range(count):
            command = [sys.executable, "-c", START + code, dsn, str(folder), f"p{n}"]
            process = programs.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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
    each, all_of_them = 12, 96
    user = atlas.users.create("ada@example.com")
    project = atlas.projects.create(user, path=folder)
    with processes(8, WRITE.replace("COUNT", str(each)), dsn, folder) as made:
        answers = [process.communicate(timeout=PATIENCE_S)[0].split("\n")[:-1] for process in made]
    seqs = [[int(line.split()[1]) for line in lines] for lines in answers]
    assert [len(mine) for mine in seqs] == [each] * 8
    # Each process gets rising numbers, and the processes together get every number once.
    assert all(mine == sorted(mine) for mine in seqs)
    assert sorted(seq for mine in seqs for seq in mine) == list(range(1, all_of_them + 1))
    history = atlas.memory.history(project, "CLAUDE.md", limit=500)
    assert [version.seq for version in history] == list(range(all_of_them, 0, -1))
    expected = {BODY + b"p%d %d\n" % (who, n) for who in range(8) for n in range(each)}
    assert {atlas.memory.content(version) for version in history} == expected
    for who, mine in enumerate(seqs):
        for n, seq in enumerate(mine):
            assert atlas.memory.content(history[all_of_them - seq]) == BODY + b"p%d %d\n" % (who, n)
    verified = atlas.memory.verify(user)
    assert (verified.ok, verified.versions, verified.contents) == (True, all_of_them, all_of_them)


def test_two_processes_register_the_same_at_once(atlas: Atlas, dsn: str, folder: Path) -> None:
    with processes(2, REGISTER, dsn, folder) as made:
        for n in range(12):
            answers = [process.stdout.readline().split() for process in made]
            for column in (0, 1):
                got = [answer[column] for answer in answers]
                assert got.count("taken") == 1, f"round {n}: {got}"
            # There is one local user, so both processes get the same one.
            assert answers[0][2] == answers[1][2]
            go(made)
    with psycopg.connect(dsn) as connection:
        counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("users", "projects")]
        assert counts == [(24,), (12,)]


def wait_until_alone(dsn: str) -> None:
    """Wait until no other server process is left. The one of a killed client may still commit."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in locks.polling(PATIENCE_S):
            others = connection.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND pid <> ALL (%s)",
                (kept_backends(dsn),),
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
            # A partial line does not count as an answer.
            acknowledged += [int(line.split()[1]) for line in child.stdout.read().split("\n")[:-1]]
        wait_until_alone(dsn)
        with Atlas.open(dsn) as atlas:
            history = atlas.memory.history(project, "CLAUDE.md", limit=1000)[::-1]
            assert [version.seq for version in history] == list(range(1, len(history) + 1))
            # The stored versions are the first ones that the child wrote, in its order. At most one has no answer.
            assert acknowledged == list(range(before + 1, before + 1 + len(acknowledged)))
            assert len(acknowledged) <= len(history) - before <= len(acknowledged) + 1
            for n, version in enumerate(history[before:]):
                assert atlas.memory.content(version) == BODY + b"%d %d\n" % (lines, n)
            assert atlas.memory.verify(user).ok
        before = len(history)


@pytest.fixture(scope="module")
def own_home() -> Iterator[Path]:
    """Yield a home that only these tests use, because they kill its server."""
    with embedded_server() as server:
        yield server.home


def kill_server(home: Path) -> None:
    os.kill(int((home / "postgres" / "postmaster.pid").read_text().split("\n")[0]), signal.SIGKILL)


class Writing:
    """A writer's record during a crash of the server: the acknowledged versions and the errors."""

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

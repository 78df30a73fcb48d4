"""Temporary databases: new at each call, and removed afterwards with their server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import programs
import psycopg
import pytest
from databases import in_database
from homes import HALF_MADE, until
from patience import PATIENCE_S
from psycopg.conninfo import conninfo_to_dict

from atlas_sdk import AsyncAtlas, Atlas, InvalidInput
from atlas_sdk._embedded import temporary

pytestmark = pytest.mark.usefixtures("machine_in_memory")

#: A program that prints the address of its database, and waits for the end of its input.
USE = """
import sys
from atlas_sdk import Atlas
with Atlas.temporary() as atlas:
    print(atlas.url, flush=True)
    sys.stdin.read()
"""


def home_of(url: str) -> Path:
    """Return the home of the server with this address."""
    (home,) = (folder for folder in homes() if str(conninfo_to_dict(url)["host"]).startswith(f"{folder}/"))
    return home


def homes() -> set[Path]:
    return {path for path in temporary._base().iterdir() if path.is_dir()}


def processes_in(home: Path) -> list[str]:
    """Return the command lines of the processes that serve a home."""
    listed = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(home) in line]


@contextmanager
def user_process(code: str = USE) -> Iterator[subprocess.Popen[str]]:
    with programs.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@contextmanager
def served() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Run a process that has a temporary database; yield it and its home."""
    with user_process() as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        yield process, home_of(url)


def test_every_database_is_new_and_dropped_afterwards() -> None:
    seen = []
    for _ in range(2):
        with Atlas.temporary() as atlas:
            assert atlas.users.list() == []
            user = atlas.users.create("ada@example.com")
            # Sessions need signing keys, although a temporary database has no home of the user.
            assert atlas.sessions.verify(atlas.sessions.issue(user).token).user_id == user.id
            seen.append(atlas.url)
    assert len(set(seen)) == 2
    with psycopg.connect(in_database(seen[0], "postgres")) as connection:
        found = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'temporary_%'").fetchall()
    assert found == [("temporary_template",)]


def test_two_at_once_do_not_see_each_other() -> None:
    with Atlas.temporary() as one, Atlas.temporary() as other:
        one.users.create("ada@example.com")
        assert other.users.list() == []


def test_a_database_in_use_is_dropped_too() -> None:
    with Atlas.temporary() as atlas:
        left = psycopg.connect(atlas.url)
    with pytest.raises(psycopg.OperationalError):
        left.execute("SELECT 1")
    left.close()


def test_threads_share_one_server() -> None:
    urls = []

    def use() -> None:
        with Atlas.temporary() as atlas:
            atlas.users.create("ada@example.com")
            urls.append(atlas.url)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(urls)) == 4
    assert len({conninfo_to_dict(url)["host"] for url in urls}) == 1


def test_asyncio_has_the_same() -> None:
    async def use() -> str:
        async with AsyncAtlas.temporary() as atlas:
            await atlas.users.create("ada@example.com")
            return atlas.url

    async def work() -> list[str]:
        return await asyncio.gather(use(), use())

    urls = asyncio.run(work())
    assert len(set(urls)) == 2
    for url in urls:
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(url)


def test_options_are_the_clients() -> None:
    with Atlas.temporary(pool_max=3) as atlas:
        assert atlas.pool().size_max == 3


def test_a_home_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused, Atlas.temporary(home=tmp_path):
        pass
    assert refused.value.field == "home"


def test_an_error_inside_arrives() -> None:
    with pytest.raises(ZeroDivisionError), Atlas.temporary():
        raise ZeroDivisionError


def test_nothing_is_left_of_a_process_that_ended() -> None:
    with served() as (process, home):
        assert processes_in(home)
        process.communicate()
        assert process.returncode == 0
        assert not home.exists()
        until(lambda: not processes_in(home), "the last process of the server is gone")


def test_nothing_is_left_of_a_process_that_was_killed() -> None:
    with served() as (process, home):
        process.kill()
        until(lambda: not home.exists(), "the supervisor has removed the home")
        until(lambda: not processes_in(home), "the last process of the server is gone")


def test_nothing_is_left_of_a_process_that_was_killed_at_its_first_start() -> None:
    with user_process(HALF_MADE + USE) as process:
        assert process.stdout is not None
        # Other test processes make homes at the same time.
        home = Path(process.stdout.readline().strip()).parent
        assert home in homes()
        process.kill()
    until(lambda: not home.exists(), "the supervisor has removed the home")
    until(lambda: not processes_in(home), "the last process of the server is gone")


def test_the_next_one_removes_what_a_killed_supervisor_left() -> None:
    with served() as (process, home):
        supervisor = int((home / "postgres.run" / "supervisor.lock").read_text())
        # In this order no process is left that could remove the home.
        os.kill(supervisor, signal.SIGKILL)
        process.kill()
        process.wait()
    assert (home / "postgres" / "postmaster.pid").exists()
    # Use another process, because this one already has its home.
    with served() as (_, other):
        assert other != home
        until(lambda: not home.exists(), "the next user has it removed")
    until(lambda: not processes_in(home), "the last process of the server is gone")


def test_a_forked_child_has_a_server_of_its_own() -> None:
    code = """
import os
from atlas_sdk import Atlas
with Atlas.temporary() as atlas:
    child = os.fork()
    if not child:
        with Atlas.temporary() as own:
            assert own.users.list() == []
            # Another host, that is another server.
            os._exit(own.url.split("?")[1] == atlas.url.split("?")[1])
    assert os.waitpid(child, 0)[1] == 0
    atlas.users.create("ada@example.com")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_users_own_database_is_not_touched(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {**os.environ, "ATLAS_HOME": str(home), "ATLAS_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    code = "from atlas_sdk import Atlas\nwith Atlas.temporary() as atlas:\n    print(len(atlas.users.list()))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
    assert not home.exists()

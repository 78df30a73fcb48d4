"""Homes of embedded servers, and processes that use them."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import programs
import psycopg
import pytest
from embedded_homes import started_home
from patience import PATIENCE_S

from atlas_sdk._embedded import EmbeddedServer, locks, places

ROOT = os.geteuid() == 0


USE = """
import sys
from pathlib import Path
from atlas_sdk._embedded import EmbeddedServer
server = EmbeddedServer.acquire(Path(sys.argv[1]))
print(server.dsn, flush=True)
sys.stdin.read()
"""

#: The start of a program that makes a data directory, prints its path and never renames it, so that a test can kill it.
HALF_MADE = """
import time
from pathlib import Path
_rename = Path.rename
def _held(self, target):
    if self.name.endswith(".new"):
        print(self, flush=True)
        time.sleep(100_000)
    return _rename(self, target)
Path.rename = _held
"""


def until(condition: Callable[[], object], what: str) -> None:
    for _ in locks.polling(PATIENCE_S):
        if condition():
            return
    pytest.fail(f"not within {PATIENCE_S:.0f} s: {what}")


def is_up(home: Path) -> bool:
    return locks.is_held(home / "postgres.run" / "server.lock")


def supervisor_of(home: Path) -> int | None:
    lock = home / "postgres.run" / "supervisor.lock"
    return int(lock.read_text() or 0) if lock.exists() and locks.is_held(lock) else None


def half_made(home: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:12]
    return places.MACHINE_DIR / f"{digest}.new" if ROOT else home / "postgres.new"


def home_of(server: EmbeddedServer) -> Path:
    return server._site.home


def value(server: EmbeddedServer, statement: str) -> object:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        row = connection.execute(statement).fetchone()  # type: ignore[call-overload]
        return row[0]


@contextmanager
def user_process(home: Path, code: str = USE) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, os.fspath(home)]
    with programs.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


class Homes:
    """A maker of homes. `close` checks that their servers stopped and left nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[Path] = []
        self._servers: list[EmbeddedServer] = []

    def __call__(self, name: str = "home") -> Path:
        self._made.append(self._folder / name)
        return self._made[-1]

    def started(self, name: str = "home") -> Path:
        """Make a home with the data of a stopped server, for a test that is not about the first start."""
        return started_home(self(name))

    def use(self, home: Path) -> EmbeddedServer:
        self._servers.append(EmbeddedServer.acquire(home))
        return self._servers[-1]

    def close(self) -> None:
        for server in self._servers:
            server.release()
        for home in self._made:
            if (home / "postgres.run").is_dir():
                until(lambda home=home: not is_up(home), "the server stops")
                until(lambda home=home: supervisor_of(home) is None, "its supervisor ends")
            if (home / "postgres").is_symlink() and (home / "postgres").resolve().is_relative_to(places.MACHINE_DIR):
                shutil.rmtree((home / "postgres").resolve())
            assert not half_made(home).exists()


def put(server: EmbeddedServer, word: str) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS words (word text)")
        connection.execute("INSERT INTO words VALUES (%s)", [word])


def words(server: EmbeddedServer) -> object:
    return value(server, "SELECT string_agg(word, ' ' ORDER BY word) FROM words")


def stop(server: EmbeddedServer, home: Path) -> None:
    server.release()
    until(lambda: not is_up(home) and supervisor_of(home) is None, "the server stops")


def copy(source: Path, target: Path, *options: str) -> Path:
    subprocess.run(["cp", *(options or ("-a",)), source, target], check=True)
    return target

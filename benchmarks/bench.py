"""A temporary home for one run, with a server that is stopped and removed afterwards, also on Ctrl-C."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, LiteralString

import psycopg
from attrs import frozen
from psycopg.conninfo import make_conninfo

from atlas_sdk import Atlas, Project, User
from atlas_sdk._embedded.locks import is_held, polling
from benchmarks.histories import Corpus

_LINGER_VARIABLE = "ATLAS_EMBEDDED_LINGER_S"
#: Seconds that a server may take to stop, with a checkpoint on a slow disk.
_STOP_S = 70.0


@frozen(kw_only=True)
class Bench:
    """The arguments of every section."""

    home: Path
    atlas: Atlas
    #: A folder on the file system of the data directory.
    scratch: Path
    corpus: Corpus
    quick: bool

    def tenant(self, name: str) -> tuple[User, Project]:
        """Create a new user and a project. The user is new because equal contents of one user are stored only once."""
        user = self.atlas.users.create(f"{name}@bench.example")
        return user, self.atlas.projects.create(user, path=self.home / "projects" / name, name=name)

    def new_database(self, name: LiteralString) -> str:
        """Create a database on the same server; return its DSN."""
        with psycopg.connect(self.atlas.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return make_conninfo(self.atlas.url, dbname=name)

    def row(self, text: LiteralString, *values: Any, dsn: str | None = None) -> tuple[Any, ...]:
        """Run a statement; return its first row."""
        with psycopg.connect(dsn or self.atlas.url, autocommit=True) as connection:
            found = connection.execute(text, values).fetchone()
        if found is None:
            message = f"no row: {text}"
            raise LookupError(message)
        return found


@contextmanager
def open_bench(corpus: Corpus, *, quick: bool, folder: Path | None) -> Iterator[Bench]:
    """Start a server in a new temporary folder; remove everything at the end, also after errors and Ctrl-C."""
    lingers = os.environ.get(_LINGER_VARIABLE)
    os.environ[_LINGER_VARIABLE] = "0.1"
    terminated = signal.signal(signal.SIGTERM, _interrupt)
    made = Path(tempfile.mkdtemp(prefix="atlas-bench-", dir=folder)).resolve()
    home = made / "home"
    try:
        with Atlas.open(home=home) as atlas:
            # Root's data may be outside the home. Peers must write to the same disk as the data.
            scratch = Path(tempfile.mkdtemp(prefix="atlas-bench-", dir=(home / "postgres").resolve().parent))
            try:
                yield Bench(home=home, atlas=atlas, scratch=scratch, corpus=corpus, quick=quick)
            finally:
                shutil.rmtree(scratch)
    finally:
        # Ignore a second Ctrl-C, which would leave a folder behind.
        interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            remove_home(home)
            shutil.rmtree(made)
        finally:
            signal.signal(signal.SIGINT, interrupted)
            signal.signal(signal.SIGTERM, terminated)
            os.environ.pop(_LINGER_VARIABLE)
            if lingers is not None:
                os.environ[_LINGER_VARIABLE] = lingers


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def remove_home(home: Path) -> None:
    """Wait until the server and its supervisor have ended, then remove the data."""
    run = home / "postgres.run"
    for _ in polling(_STOP_S):
        if not any((run / name).exists() and is_held(run / name) for name in ("server.lock", "supervisor.lock")):
            break
    else:
        message = f"the server in {home} does not stop; its log is {run / 'server.log'}"
        raise TimeoutError(message)
    data = home / "postgres"
    if data.is_symlink():
        shutil.rmtree(data.resolve())

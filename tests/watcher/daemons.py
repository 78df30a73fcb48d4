"""A real daemon in a process of its own, and functions to look at its status and at stored versions."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import programs
from patience import PATIENCE_S

from atlas_sdk import Atlas, Project
from watcher.status import Status, read_status

T = TypeVar("T")

#: A function that makes a folder of this name and registers it as a project.
NewProject = Callable[..., Project]

_PROGRAM = """
import json, logging, sys
from pathlib import Path
from watcher.daemon import run
from watcher.debounce import Timing
logging.basicConfig(level="INFO")
dsn, home, timing = json.loads(sys.argv[1])
sys.exit(run(dsn=dsn, home=Path(home), timing=Timing(**timing)))
"""


def until(condition: Callable[[], T | None], what: str) -> T:
    """Wait for a condition; return its value."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.01)
    return found


class Daemon:
    """A daemon of one home, which a test can start and end several times. None outlives its test."""

    def __init__(self, home: Path, dsn: str | None, **timing: float) -> None:
        # The daemon reads the list of projects only when the database tells of a change.
        self.home = home
        self.dsn = dsn
        self.timing = {"projects_s": 3600.0, "projects_heard_s": 3600.0, "status_s": 0.02, **timing}
        self.log = home.parent / f"{home.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **timing: float) -> Daemon:
        arguments = json.dumps([self.dsn, str(self.home), {**self.timing, **timing}])
        self.spawn([sys.executable, "-c", _PROGRAM, arguments])
        until(lambda: self.status().ready, "the daemon is ready")
        return self

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of the program `atlas-watcher` for this home and database."""
        assert self.dsn is not None
        return [sys.executable, "-m", "watcher", "--home", str(self.home), "--dsn", self.dsn, *arguments]

    def spawn(self, command: list[str]) -> None:
        with self.log.open("ab") as log:
            self.process = programs.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def status(self) -> Status:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        status = read_status(self.home)
        if status is None or status.pid != self.process.pid:
            return Status(pid=0, started_at=datetime.now(UTC))
        return status

    def signal(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self.process = None
        return code

    def until_snapshots(self, number: int) -> None:
        until(lambda: self.status().counters["snapshots"] >= number, f"it took {number} versions")

    def stop(self) -> int:
        return self.signal(signal.SIGTERM)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def end(self) -> None:
        if self.process is not None:
            self.kill()


def contents(atlas: Atlas, project: Project, path: str = "CLAUDE.md") -> list[bytes | None]:
    """Return the content of every version of a file, oldest first; None for a deletion."""
    versions = atlas.memory.history(project, path, limit=10_000)
    return [None if one.deleted else atlas.memory.content(one) for one in reversed(versions)]


def newest(atlas: Atlas, project: Project, path: str = "CLAUDE.md") -> bytes | str | None:
    """Return the newest content; "deleted" for a deletion, None for a file without versions."""
    versions = atlas.memory.history(project, path, limit=1)
    if not versions:
        return None
    return "deleted" if versions[0].deleted else atlas.memory.content(versions[0])


def until_newest(atlas: Atlas, project: Project, content: bytes | str, path: str = "CLAUDE.md") -> None:
    """Wait until this is the newest content of a file."""
    until(lambda: newest(atlas, project, path) == content, f"{path} is {content!r}")


def has_no_repeats(atlas: Atlas, project: Project, path: str) -> bool:
    """Return whether every version differs from the one before it."""
    versions = atlas.memory.history(project, path, limit=10_000)
    return all(a.sha256 != b.sha256 for a, b in itertools.pairwise(versions))


@contextmanager
def without_privileges() -> Iterator[None]:
    """Act as the account `nobody` if the tests run as root, because root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)

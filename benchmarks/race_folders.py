"""A race against a user who swaps folders for symlinks while root restores, undoes and watches.

`python -m benchmarks.race_folders --races 200 --seed 1` runs as root. In each race another user owns a project. Again
and again, a process of this user swaps the project's folder, the folder above it or one inside it for a symlink to a
folder of root. Root's operations on the project must touch nothing in that folder. inotify reports every open, read and
write there. `--sabotage` lets the walk to a project follow symlinks, as it did once. The race must then find something.
"""

import argparse
import ctypes
import logging
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import define, field

from atlas_sdk import Atlas, AtlasError, Project
from atlas_sdk.files import renameat2, root
from benchmarks.bench import remove_home
from watcher.daemon import run
from watcher.debounce import Timing

_NOBODY = 65534
#: A text that no stored version may contain.
_SECRET = b"SECRET of root\n" * 20
_FILES = ("CLAUDE.md", ".claude/rules/a.md", "notes/b.md")
_KINDS = ("restore", "undo", "watch")
#: The folder that the attacker swaps: the project, the folder above it, or one inside it.
_PLACES = ("home/proj", "home", "home/proj/.claude")
#: inotify(7): access, modify, attrib, close, open, moved, created, deleted; also of the folder itself.
_EVERYTHING = 0xFFF
_WATCH_S = 0.3
#: Seconds. This is far more than a daemon needs to start on a busy machine.
_READY_S = 120.0


class Alarm:
    """A counter of the kernel's reports about a folder and everything in it."""

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self.names: list[str] = []
        for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            watch = self._libc.inotify_add_watch(self._fd, os.fsencode(path), _EVERYTHING)
            assert watch >= 0, os.strerror(ctypes.get_errno())

    def rung(self) -> list[str]:
        """Return the events since the last call, as "mask name"."""
        events = []
        while True:
            try:
                raw = os.read(self._fd, 2**16)
            except BlockingIOError:
                return events
            while raw:
                _, mask, _, length = struct.unpack_from("iIII", raw)
                events.append(f"{mask:#x} {raw[16 : 16 + length].rstrip(bytes(1)).decode(errors='replace')}")
                raw = raw[16 + length :]

    def close(self) -> None:
        """End the watches."""
        os.close(self._fd)


@contextmanager
def attacker(base: Path, place: str, seed: int) -> Iterator[None]:
    """Let another user swap a folder for a symlink and back, again and again. At the end it is a folder."""
    folder, trap = base / place, (base / place).parent / ".trap"
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
            _swap(folder, trap, random.Random(seed))
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, "the attacker failed"


def _swap(folder: Path, trap: Path, choice: random.Random) -> None:
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    # Use a descriptor: the next race may swap the folder above.
    parent = os.open(folder.parent, os.O_RDONLY)
    # Depending on the attacker's speed, most operations fail, or most succeed.
    pause_s = choice.choice((0.00001, 0.001, 0.01, 0.1))
    while not ended.is_set():
        renameat2.exchange(parent, folder.name, trap.name)
        ended.wait(choice.random() * pause_s)
    if folder.is_symlink():
        renameat2.exchange(parent, folder.name, trap.name)
    os._exit(0)


@define
class Arena:
    """Root's database and secret folder, and projects of another user."""

    base: Path
    atlas: Atlas
    alarm: Alarm
    before: dict[str, bytes]
    refused: int = 0
    done: int = 0
    violations: list[str] = field(factory=list)

    def project(self, number: int) -> tuple[Path, Project]:
        """Create a project of the other user, with a checkpoint, and a trap beside each folder."""
        base = self.base / f"user{number}"
        (base / "home" / "proj").mkdir(parents=True)
        for name in _FILES:
            path = base / "home" / "proj" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"version one\n")
        # Each trap looks like the folder that it replaces, so that only the walk can notice the difference.
        outside = self.base / "outside"
        for place, target in zip(_PLACES, (outside / "proj", outside, outside / "proj" / ".claude"), strict=True):
            ((base / place).parent / ".trap").symlink_to(target)
        for path in (base, *base.rglob("*")):
            os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)
        project = self.atlas.projects.create(self.atlas.users.local(), path=base / "home" / "proj")
        self.atlas.memory.capture(project)
        self.atlas.memory.checkpoint(project, "one")
        return base, project

    def attempt(self, action: Callable[[], object]) -> None:
        """Run an operation that may be refused."""
        try:
            action()
        except AtlasError:
            self.refused += 1
        else:
            self.done += 1

    def judge(self, what: str, project: Project) -> None:
        """Check that nothing outside was touched or stored."""
        self.violations += [f"{what}: {event}" for event in self.alarm.rung()]
        if contents(self.base / "outside") != self.before:
            self.violations.append(f"{what}: the folder outside changed")
        # Forget the reports so far. The look at the secret folder above is not a violation.
        self.alarm.rung()
        for version in self.atlas.memory.history(project, limit=1000):
            if version.sha256 is not None and _SECRET in self.atlas.memory.content(version):
                self.violations.append(f"{what}: {version.path} holds what only root may read")


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _edit(base: Path, number: int) -> None:
    for name in _FILES:
        path = base / "home" / "proj" / name
        path.write_bytes(b"edited %d\n" % number)
        os.chown(path, _NOBODY, _NOBODY)


def _race(arena: Arena, number: int, kind: str, choice: random.Random) -> None:
    place = choice.choice(_PLACES)
    base, project = arena.project(number)
    memory = arena.atlas.memory
    _edit(base, number)
    if kind == "watch":
        with attacker(base, place, choice.randrange(2**32)):
            time.sleep(_WATCH_S)
    else:
        if kind == "undo":
            memory.restore(project, "one")
        plan = memory.plan_undo(project) if kind == "undo" else memory.plan_restore(project, "one")
        with attacker(base, place, choice.randrange(2**32)):
            time.sleep(choice.random() / 100)
            arena.attempt(lambda: memory.restore(project, plan))
            arena.attempt(lambda: memory.restore(project, "one", delete=True))
            arena.attempt(lambda: memory.capture(project))
    arena.judge(f"race {number}, {kind}, {place} swapped", project)
    arena.atlas.projects.archive(project)


@contextmanager
def _watching(home: Path) -> Iterator[None]:
    stop, ready = threading.Event(), threading.Event()
    timing = Timing(projects_s=0.05, sweep_s=0.2, lost_s=0.05, replaced_s=0.2, closed_s=0.0, changed_s=0.01)
    options = {"home": home, "stop": stop, "ready": ready.set, "timing": timing}
    thread = threading.Thread(target=run, kwargs=options)
    thread.start()
    try:
        assert ready.wait(_READY_S), "the watcher did not start"
        yield
    finally:
        stop.set()
        thread.join()


def _arena(base: Path, atlas: Atlas) -> Arena:
    outside = base / "outside"
    for name in _FILES:
        path = outside / "proj" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_SECRET)
    for path in (outside, *outside.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    before = contents(outside)
    return Arena(base, atlas, Alarm(outside), before)


def main(argv: list[str] | None = None) -> int:
    """Run the races; return 1 when something outside was touched."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--races", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sabotage", action="store_true")
    options = parser.parse_args(argv)
    if os.geteuid() != 0:
        parser.error("run it as root: somebody else has to be the attacker")
    if options.sabotage:
        root._open = lambda path: os.open(path, os.O_RDONLY | os.O_DIRECTORY)  # noqa: SLF001 - the point of it
    # The watcher logs a lost project at every swap.
    logging.getLogger("watcher").setLevel(logging.ERROR)
    choice = random.Random(options.seed)
    base = Path(tempfile.mkdtemp(prefix="atlas-race-"))
    base.chmod(0o755)
    try:
        with Atlas.open(home=base / "atlas") as atlas, _watching(base / "atlas"):
            arena = _arena(base, atlas)
            for number in range(options.races):
                _race(arena, number, _KINDS[number % len(_KINDS)], choice)
            arena.alarm.close()
    finally:
        # The server goes on for a while after its last user, and nothing stops it once its home is gone.
        remove_home(base / "atlas")
        shutil.rmtree(base)
    print(f"seed {options.seed}: {options.races} races, {arena.done} operations done, {arena.refused} refused")
    for violation in arena.violations[:20]:
        print(violation)
    print(f"{len(arena.violations)} opens, reads or writes outside of the projects")
    return 1 if arena.violations else 0


if __name__ == "__main__":
    sys.exit(main())

"""A race between writers of memory files and a watcher that is killed again and again.

`python -m benchmarks.race_kills --kills 1000 --seed 1`. Threads write, replace and delete memory files without a pause.
A watcher starts, and is killed (SIGKILL) at a random moment; every third one cannot reach its database. A version
counts as acknowledged as soon as another process sees it in the journal. At the end a watcher runs undisturbed until
nothing waits. Then the newest version of every file must be the file on the disk, no two adjacent versions may be
equal, every acknowledged version must be in the history, and the history must be in the order of the writes.

`--sabotage` lets a watcher forget one record of each large batch. The race must then find something.
"""

import argparse
import hashlib
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from attrs import define, field

from atlas_sdk import Atlas, Project
from atlas_sdk.journal import Journal, Record
from benchmarks.bench import remove_home
from watcher.daemon import run
from watcher.debounce import Timing
from watcher.status import read_status

#: Files of each project: replaced, written in place, and deleted now and then.
_FILES = ("CLAUDE.md", "NOTES.md", "notes/plan.md", ".claude/rules/style.md")
_TIMING = Timing(
    closed_s=0.005, changed_s=0.02, vanished_s=0.05, longest_s=0.1, sweep_s=1.0, projects_s=0.2, status_s=0.02
)
#: A server at an address where nothing listens.
_AWAY = "postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=1"
_LIFE_S = 0.8
_QUIET_S = 300.0
#: The hash of a deleted file.
_GONE = ""


def _hash(content: bytes | None) -> str:
    return _GONE if content is None else hashlib.sha256(content).hexdigest()


@define
class Writer:
    """A thread that changes the files of one project and keeps the list of what was on the disk."""

    root: Path
    choice: random.Random
    #: The hashes of every file, in the order of the writes.
    written: dict[str, list[str]] = field(factory=lambda: defaultdict(list))
    _ended: threading.Event = field(factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        assert self._thread is not None
        self._thread.join()

    def _write(self) -> None:
        number = 0
        while not self._ended.wait(self.choice.random() * 0.02):
            number += 1
            self.change(self.choice.choice(_FILES), number)

    def change(self, name: str, number: int) -> None:
        """Change one file. The list gets each state before it is on the disk."""
        path, states = self.root / name, self.written[name]
        content = f"# {name} {number}\n{self.choice.random()}\n".encode() * self.choice.choice((1, 1, 40))
        how = self.choice.random()
        if how < 0.05:
            states.append(_GONE)
            path.unlink(missing_ok=True)
        elif how < 0.3:
            # `write_bytes` first makes the file empty.
            states.extend((_hash(b""), _hash(content)))
            path.write_bytes(content)
        else:
            states.append(_hash(content))
            fresh = path.with_name(f"{path.name}~")
            fresh.write_bytes(content)
            fresh.replace(path)


def _serve(home: Path, dsn: str | None, *, sabotage: bool) -> None:
    """Run the watcher in this process, which was forked for it."""
    if sabotage:
        pending = Journal.pending

        def forgetful(self: Journal, *args: Any, **options: Any) -> list[Record]:
            found = pending(self, *args, **options)
            self.delivered([record.id for record in found[10:11]])
            return found[:10]

        Journal.pending = forgetful  # type: ignore[method-assign]  # the point of it
    logging.basicConfig(filename=home.parent / "watcher.log", level="INFO")
    code = 1
    try:
        code = run(dsn=dsn, home=home, timing=_TIMING)
    except BaseException:
        logging.getLogger("watcher").exception("the watcher failed")
    finally:
        os._exit(code)


@contextmanager
def nursery(home: Path, *, sabotage: bool) -> Iterator["Nursery"]:
    """Start a process that forks watchers. It has no threads and has imported everything, so a start is quick."""
    ask, answer = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ask[1])
        os.close(answer[0])
        while word := os.read(ask[0], 1):
            watcher = os.fork()
            if watcher == 0:
                _serve(home, _AWAY if word == b"a" else None, sabotage=sabotage)
            os.write(answer[1], watcher.to_bytes(4, "little"))
            _, status = os.waitpid(watcher, 0)
            os.write(answer[1], status.to_bytes(4, "little"))
        os._exit(0)
    os.close(ask[0])
    os.close(answer[1])
    try:
        yield Nursery(ask[1], answer[0])
    finally:
        os.close(ask[1])
        os.close(answer[0])
        os.waitpid(child, 0)


@define
class Nursery:
    """The process that forks watchers; one watcher at a time."""

    _ask: int
    _answer: int

    def start(self, *, away: bool) -> int:
        """Start a watcher; return its process id."""
        os.write(self._ask, b"a" if away else b"h")
        return int.from_bytes(os.read(self._answer, 4), "little")

    def end(self, watcher: int, number: signal.Signals) -> int:
        """End the watcher; return its wait status."""
        with suppress(ProcessLookupError):
            os.kill(watcher, number)
        return int.from_bytes(os.read(self._answer, 4), "little")


@define
class Race:
    """The projects with their writers, and what was acknowledged."""

    home: Path
    writers: dict[Project, Writer]
    acknowledged: set[tuple[Project, str, str]] = field(factory=set)

    def note_acknowledged(self) -> None:
        """Note the versions in the journal. This process has not written them, so they are durable."""
        journal = Journal.existing(self.home)
        if journal is None:
            return
        with journal:
            for project in self.writers:
                for record in journal.pending(project.id, limit=100_000, max_bytes=2**30, held_too=True):
                    self.acknowledged.add((project, record.path, "" if record.sha256 is None else record.sha256.hex()))

    def waits(self) -> bool:
        """Return whether anything is not in the database yet."""
        status = read_status(self.home)
        journal = Journal.existing(self.home)
        if journal is None or status is None:
            return True
        with journal:
            return not status.ready or status.pending > 0 or not journal.is_empty()

    def judge(self, atlas: Atlas) -> tuple[int, list[str]]:
        """Compare the history with the writes; return the number of versions, and what is wrong."""
        wrong: list[str] = []
        versions = 0
        for project, writer in self.writers.items():
            for name, written in writer.written.items():
                history = list(reversed(atlas.memory.history(project, name, limit=1_000_000)))
                hashes = [one.sha256 or _GONE for one in history]
                versions += len(hashes)
                where = f"{writer.root.name}/{name}"
                path = writer.root / name
                disk = _hash(path.read_bytes() if path.exists() else None)
                if (hashes or [_GONE])[-1] != disk:
                    wrong.append(f"lost: the newest version of {where} is not the file")
                wrong += [f"duplicate: {where} {one[:10]}" for one, next_one in pairwise(hashes) if one == next_one]
                wrong += [
                    f"missing: {where} {sha256[:10]} was acknowledged"
                    for owner, path_of, sha256 in self.acknowledged
                    if owner is project and path_of == name and sha256 not in hashes
                ]
                left = iter(written)
                wrong += [f"order: {where} {sha256[:10]}" for sha256 in hashes if sha256 not in left]
                times = [one.created_at for one in history]
                if times != sorted(times):
                    wrong.append(f"times: {where}")
        return versions, wrong


def _run(base: Path, kills: int, seed: int, *, sabotage: bool) -> int:
    choice = random.Random(seed)
    home = base / "home"
    with nursery(home, sabotage=sabotage) as watchers, Atlas.open(home=home) as atlas:
        race = Race(home, {})
        for number in range(5):
            root = base / f"project{number}"
            for name in _FILES:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
            project = atlas.projects.create(atlas.users.local(), path=root)
            race.writers[project] = Writer(root, random.Random(choice.random()))
        for writer in race.writers.values():
            writer.start()
        for number in range(kills):
            watcher = watchers.start(away=number % 3 == 2)
            time.sleep(choice.random() * _LIFE_S)
            status = watchers.end(watcher, signal.SIGKILL)
            assert os.WIFSIGNALED(status), (home.parent / "watcher.log").read_text()[-3000:]
            race.note_acknowledged()
        for writer in race.writers.values():
            writer.stop()
        last = watchers.start(away=False)
        deadline = time.monotonic() + _QUIET_S
        # A sweep finds what no event reports.
        for _ in range(3):
            while race.waits():
                assert time.monotonic() < deadline, "the last watcher does not get done"
                time.sleep(0.05)
            time.sleep(1.5 * _TIMING.sweep_s)
        assert os.waitstatus_to_exitcode(watchers.end(last, signal.SIGTERM)) == 0
        versions, wrong = race.judge(atlas)
        writes = sum(len(states) for writer in race.writers.values() for states in writer.written.values())
    seen = len(race.acknowledged)
    print(f"seed {seed}: {kills} kills, {writes} writes, {versions} versions, {seen} of them seen in the journal")
    kinds = ("lost", "duplicate", "missing", "order", "times")
    for one in wrong[:20]:
        print(one)
    print(", ".join(f"{sum(one.startswith(kind) for one in wrong)} {kind}" for kind in kinds))
    return 1 if wrong else 0


def main(argv: list[str] | None = None) -> int:
    """Run the race; return 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sabotage", action="store_true")
    options = parser.parse_args(argv)
    base = Path(tempfile.mkdtemp(prefix="atlas-kills-"))
    try:
        return _run(base, options.kills, options.seed, sabotage=options.sabotage)
    finally:
        # Nothing stops the server once its home is gone.
        remove_home(base / "home")
        shutil.rmtree(base)


if __name__ == "__main__":
    sys.exit(main())

"""The watcher: from a write to the journal and to the database, and its size with many projects."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from atlas_sdk import Atlas
from atlas_sdk.journal import Journal, Record
from benchmarks.bench import Bench
from benchmarks.table import Amount, Row, at_most, count, ms
from benchmarks.timing import Times, take_turns
from watcher.backend import WatchedFolder
from watcher.daemon import run
from watcher.debounce import ChangeKind, Timing
from watcher.inotify import Inotify
from watcher.status import Status, read_status

_WAIT_S = 60.0
#: Memory files of each project, in five folders.
_FILES = ("CLAUDE.md", ".claude/commands/a.md", "scratch/a.md", "notes/a.md", "notes/b.md")
_IDLE_S = 20.0


def watching(bench: Bench) -> list[Row]:
    """Measure the latency of a capture beside its floor, and a daemon with many projects at rest."""
    return [*_latency(bench), *_size(bench, projects=200 if bench.quick else 1_000)]


class _Daemon:
    """A daemon in a thread of this process. `put` replaces a file, and waits until a version is safe."""

    def __init__(self, folder: Path, every: int = 1) -> None:
        self.every = every
        self.folder = folder
        self.safe = threading.Event()
        self.wanted = b""

    def put(self, path: str, content: bytes) -> float:
        self.wanted = hashlib.sha256(content).digest()
        self.safe.clear()
        return _replace(self.folder / path, content, self.safe)


class _Floor:
    """The least that a capture needs: inotify, read, hash, append, fdatasync."""

    every = 1

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder = folder
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._safe = threading.Event()
        self._backend = Inotify()
        self._backend.start(self)
        self._backend.watch(WatchedFolder(UUID(int=1), ""), str(folder))

    def changed(self, place: WatchedFolder, name: str, change: ChangeKind, *, is_folder: bool) -> None:
        """Do the work in the thread of the event."""
        del place, is_folder
        if change is ChangeKind.CLOSED and not name.endswith(".new"):
            content = (self.folder / name).read_bytes()
            os.write(self._log, hashlib.sha256(content).digest() + content)
            os.fdatasync(self._log)
            self._safe.set()

    def root_changed(self, place: WatchedFolder) -> None:
        """Do nothing: the folder stays."""

    def overflowed(self) -> None:
        """Do nothing: there are few events."""

    def put(self, path: str, content: bytes) -> float:
        """Replace a file; return the seconds until it is on the disk a second time."""
        self._safe.clear()
        return _replace(self.folder / path, content, self._safe)

    def close(self) -> None:
        """End the thread."""
        self._backend.stop()
        os.close(self._log)


def _replace(path: Path, content: bytes, safe: threading.Event) -> float:
    fresh = path.with_name(f"{path.name}.new")
    began = time.perf_counter()
    fresh.write_bytes(content)
    fresh.replace(path)
    if not safe.wait(_WAIT_S):
        message = f"{path} was not captured within {_WAIT_S:.0f} s"
        raise TimeoutError(message)
    return time.perf_counter() - began


@contextmanager
def _running(bench: Bench, daemon: _Daemon, home: Path, timing: Timing, *, delivered: bool) -> Iterator[None]:
    """Run a daemon, and set `safe` when the journal, or the database if `delivered`, has the wanted content."""
    append, mark = Journal.append, Journal.delivered
    ids: set[UUID] = set()

    def timed_append(self: Journal, records: Sequence[Record], heads: Any = None) -> None:
        wanted = [record.id for record in records if record.sha256 == daemon.wanted]
        ids.update(wanted)
        append(self, records, heads)
        if wanted and not delivered:
            daemon.safe.set()

    def timed_mark(self: Journal, done: Any) -> None:
        found = list(done)
        if delivered and ids.intersection(found):
            daemon.safe.set()
        mark(self, found)

    stop, ready = threading.Event(), threading.Event()
    options: dict[str, Any] = {"dsn": bench.atlas.url, "home": home, "stop": stop, "ready": ready.set, "timing": timing}
    thread = threading.Thread(target=run, kwargs=options)
    setattr(Journal, "append", timed_append)  # noqa: B010 - mypy forbids the assignment
    setattr(Journal, "delivered", timed_mark)  # noqa: B010 - as above
    try:
        thread.start()
        if not ready.wait(_WAIT_S):
            message = "the daemon is not ready"
            raise TimeoutError(message)
        yield
    finally:
        stop.set()
        thread.join()
        setattr(Journal, "append", append)  # noqa: B010 - as above
        setattr(Journal, "delivered", mark)  # noqa: B010 - as above


def _latency(bench: Bench) -> list[Row]:
    number = 60 if bench.quick else 400
    contents = [os.urandom(4).hex().encode() * 256 for _ in range(number)]
    versions = [("CLAUDE.md", content) for content in contents]
    results: list[tuple[Times, Times]] = []
    for name, timing, delivered in (
        ("journal", Timing(closed_s=0.0, changed_s=0.0), False),
        ("database", Timing(), True),
    ):
        _, project = bench.tenant(f"watching-{name}")
        folder = Path(project.path)
        folder.mkdir(parents=True)
        below = bench.scratch / f"watching-{name}"
        (below / "floor").mkdir(parents=True)
        daemon, floor = _Daemon(folder), _Floor(below / "floor", below / "log")
        try:
            with _running(bench, daemon, below / "home", timing, delivered=delivered):
                ours, least = take_turns(
                    [daemon, floor], versions if not delivered else versions[: number // 4], warm_up=5
                )
        finally:
            floor.close()
        results.append((ours, least))
    (journal, least), (database, _) = results
    return [
        Row(
            what="write → durable in the journal, zero settle : inotify + sha + append + fdatasync",
            ours=ms(journal.p50),
            peer=ms(least.p50),
            target=at_most(2.0),
            note=f"{journal.spread()}; floor {least.spread()}",
        ),
        Row(
            what="write → in the database, with the usual settle of 50 ms, ms",
            ours=Amount(database.p50 * 1000),
            target=at_most(60),
            note=database.spread(),
        ),
    ]


def _size(bench: Bench, *, projects: int) -> list[Row]:
    home, folder = bench.scratch / "watching-home", bench.scratch / "watching-projects"
    user = bench.atlas.users.create("watching-size@bench.example")
    with bench.atlas.transaction() as open_one:
        for number in range(projects):
            for name in _FILES:
                file = folder / str(number) / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"{number} {name}\n" * 20)
            open_one.projects.create(user, path=folder / str(number))
    first_s, process = _started(bench.atlas, home)
    _stopped(process)
    warm_s, process = _started(bench.atlas, home)
    time.sleep(5.0)
    before = _cpu_s(process.pid)
    time.sleep(_IDLE_S)
    share = (_cpu_s(process.pid) - before) / _IDLE_S * 100
    resident, threads = _resident_and_threads(process.pid)
    for number in range(projects):
        (folder / str(number) / "CLAUDE.md").write_text("changed")
    stop_s = _stopped(process)
    shutil.rmtree(folder)
    about = f"{projects:,} projects of five folders"
    return [
        Row(what=f"ready at first sight, s, {about}", ours=Amount(first_s, "s")),
        Row(what="ready again, s", ours=Amount(warm_s, "s")),
        Row(what="at rest, % of a core", ours=Amount(share), target=at_most(1.0)),
        Row(what="resident, MB", ours=Amount(resident / 2**20), target=at_most(140)),
        Row(what="threads", ours=count(threads), target=at_most(6)),
        Row(what="SIGTERM → end, a file changed in each project, s", ours=Amount(stop_s), target=at_most(5.6)),
    ]


def _started(atlas: Atlas, home: Path) -> tuple[float, "subprocess.Popen[bytes]"]:
    began = time.monotonic()
    command = [sys.executable, "-m", "watcher", "--home", str(home), "--dsn", atlas.url, "--log-level", "error"]
    process = subprocess.Popen(command)
    _until(home, process, lambda status: status.ready)
    seconds = time.monotonic() - began
    _until(home, process, lambda status: status.journal.records == 0)
    return seconds, process


def _until(home: Path, process: "subprocess.Popen[bytes]", condition: Callable[[Status], bool]) -> None:
    deadline = time.monotonic() + 10 * _WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        status = read_status(home)
        if status is not None and status.pid == process.pid and condition(status):
            return
        time.sleep(0.05)
    message = "the daemon has ended" if process.poll() is not None else "the daemon is too slow"
    raise TimeoutError(message)


def _stopped(process: "subprocess.Popen[bytes]") -> float:
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(_WAIT_S)
    return time.monotonic() - began


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_and_threads(pid: int) -> tuple[int, int]:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) * 1024, int(lines["Threads"])

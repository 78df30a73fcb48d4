"""A race of many processes that append to one file at once. No version may be lost."""

import hashlib
import multiprocessing
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from uuid import UUID

from attrs import frozen

from atlas_sdk import Atlas
from benchmarks.bench import Bench
from benchmarks.table import Row, count, exactly, per_second
from benchmarks.unchanged import StatementCounter

__all__ = ["race"]

_PROCESSES = 32
_PATH = "CLAUDE.md"
#: Seconds for 32 interpreters that start at once on a slow machine.
_START_S = 120.0
#: A text of a typical size that every version contains, so that only the race is measured.
_COMMON = "".join(f"- Rule {number}: keep what other writers wrote.\n" for number in range(100))


@frozen(kw_only=True)
class _Done:
    """The report of one process."""

    #: Seconds of the machine's monotonic clock, which all processes share.
    began: float
    ended: float
    statements: int


def _content(writer: int, number: int) -> bytes:
    return f"# Writer {writer}, version {number}\n{_COMMON}".encode()


def _write(
    home: Path, user_id: UUID, project_id: UUID, writer: int, versions: int, start: Barrier, to: Connection
) -> None:
    with StatementCounter() as counter, Atlas.open(home=home, query_log=True) as atlas:
        project = atlas.projects.get(atlas.users.get(user_id), project_id)
        start.wait(_START_S)
        began = time.monotonic()
        counter.names.clear()
        for number in range(versions):
            atlas.memory.snapshot(project, _PATH, _content(writer, number))
        to.send(_Done(began=began, ended=time.monotonic(), statements=counter.names.count("memory.put")))


def race(bench: Bench) -> list[Row]:
    """Let 32 processes write versions of one file, then count and verify them."""
    each = 20 if bench.quick else 100
    total = _PROCESSES * each
    user, project = bench.tenant("race")
    done = _run(bench.home, user.id, project.id, each)
    took_s = max(report.ended for report in done) - min(report.began for report in done)
    history = bench.atlas.memory.history(project, _PATH, limit=2 * total)
    written = {hashlib.sha256(_content(writer, n)).hexdigest() for writer in range(_PROCESSES) for n in range(each)}
    kept = written & {version.sha256 for version in history}
    in_order = [version.seq for version in history] == list(range(total, 0, -1))
    verified = bench.atlas.memory.verify(user)
    tries = sum(report.statements for report in done)
    return [
        Row(what=f"versions kept, of {total:,}", ours=count(len(kept)), target=exactly(total)),
        Row(what=f"numbered 1 to {total:,} without a gap", ours=count(int(in_order)), target=exactly(1)),
        Row(
            what="versions verified",
            ours=count(verified.versions - len(verified.broken)),
            target=exactly(total),
        ),
        Row(
            what=f"rate of {_PROCESSES} processes",
            ours=per_second(total / took_s),
            note=f"{tries - total:,} tries met a newer version ({(tries - total) / total:.1f} a version)",
        ),
    ]


def _run(home: Path, user_id: UUID, project_id: UUID, versions: int) -> list[_Done]:
    # Do not fork: a child must be like an independent program.
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(_PROCESSES)
    pipes = [spawn.Pipe(duplex=False) for _ in range(_PROCESSES)]
    processes = [
        spawn.Process(target=_write, args=(home, user_id, project_id, writer, versions, start, to))
        for writer, (_, to) in enumerate(pipes)
    ]
    try:
        for process, (_, to) in zip(processes, pipes, strict=True):
            process.start()
            # Close our copy of the child's end. Otherwise reading would wait for ever if the child dies.
            to.close()
        return [report.recv() for report, _ in pipes]
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()

"""A race of many processes that append to one file at once. No version may be lost."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from attrs import frozen

from atlas_sdk import Atlas
from benchmarks.bench import Bench
from benchmarks.slices import crew
from benchmarks.table import Row, count, exactly, per_second
from benchmarks.unchanged import StatementCounter

_PROCESSES = 32
_PATH = "CLAUDE.md"
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


@contextmanager
def _writer(
    home: Path, user_id: UUID, project_id: UUID, versions: int, number: int
) -> Iterator[Mapping[str, Callable[[], object]]]:
    with StatementCounter() as counter, Atlas.open(home=home, query_log=True) as atlas:
        project = atlas.projects.get(atlas.users.get(user_id), project_id)
        counter.names.clear()

        def write() -> _Done:
            began = time.monotonic()
            for version in range(versions):
                atlas.memory.snapshot(project, _PATH, _content(number, version))
            return _Done(began=began, ended=time.monotonic(), statements=counter.names.count("memory.put"))

        yield {"write": write}


def race(bench: Bench) -> list[Row]:
    """Let 32 processes write versions of one file, then count and verify them."""
    each = 20 if bench.quick else 100
    total = _PROCESSES * each
    user, project = bench.tenant("race")
    with crew(_PROCESSES, _writer, bench.home, user.id, project.id, each) as writers:
        done = writers.ask("write")
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
        Row(what="versions verified", ours=count(verified.versions - len(verified.broken)), target=exactly(total)),
        Row(
            what=f"rate of {_PROCESSES} processes",
            ours=per_second(total / took_s),
            note=f"{tries - total:,} tries met a newer version ({(tries - total) / total:.1f} a version)",
        ),
    ]

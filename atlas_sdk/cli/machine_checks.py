"""Check what protects the memory of this machine: the watcher, its service, the limits of the kernel, the journal."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from atlas_sdk.cli.output import count, size
from atlas_sdk.errors import AtlasError
from atlas_sdk.provision import Finding
from atlas_sdk.text import printable, some

if TYPE_CHECKING:
    from watcher.status import Status

_INOTIFY: Final = Path("/proc/sys/fs/inotify")
#: Above this share of a limit, other programs of this user may soon get no watch.
_MUCH: Final = 0.8
_START: Final = "atlasctl service install    # or atlasctl watch, in a terminal"
#: A delivery takes milliseconds; versions that wait for longer than this (seconds) are worth a word.
_LATE_S: Final = 60.0


def examine_watcher(status: "Status | None", now: datetime) -> Iterator[Finding]:
    """Yield the verdict on the daemon: it runs, answers, reaches its database, and sees its projects."""
    if status is None:
        yield _finding("watcher", "problem", "no watcher runs for this home: no change is captured", _START)
        return
    if not status.is_fresh(now):
        told = f"process {status.pid} has said nothing for {status.age_s(now):,.0f} s: it is stopped, or it hangs"
        yield _finding("watcher", "problem", told, "atlasctl service restart    # or stop and start atlasctl watch")
        return
    projects = count(len(status.projects), "project")
    if not status.ready:
        yield _finding("watcher", "warning", f"process {status.pid} has just started and compares {projects}")
    else:
        yield _finding("watcher", "ok", f"process {status.pid} watches {projects} by {status.backend}")
    if status.database.problem is not None:
        yield _finding("watcher", "problem", f"its database: {status.database.problem}", "atlasctl db doctor")
    lost = [printable(project.path) for project in status.projects if project.lost]
    if lost:
        yield _finding("projects", "warning", f"the folders of {count(len(lost), 'project')} are gone: {some(lost)}")


def examine_limits(
    status: "Status | None", *, kernel: Path = _INOTIFY, processes: Path = Path("/proc")
) -> Iterator[Finding]:
    """Yield the verdict on the watches of the kernel: how many the daemon has, and whether it has all it needs."""
    if status is None or not kernel.is_dir():
        return
    limit = _number(kernel / "max_user_watches")
    raised = f"sysctl fs.inotify.max_user_watches={2 * (limit or 65_536)}    # and in /etc/sysctl.d, to keep it"
    refused = status.counters.get("watch_failures", 0)
    if status.backend == "poll":
        told = "the daemon got no inotify instance: every folder is polled every few seconds"
        yield _finding("watches", "warning", told, "sysctl fs.inotify.max_user_instances=1024")
    elif refused:
        told = f"folders of {count(refused, 'project')} cannot be watched and are polled"
        yield _finding("watches", "warning", told, raised)
    else:
        used = _watches(processes / str(status.pid))
        known = "" if used is None else f"{used:,} of "
        full = used is not None and limit is not None and used > _MUCH * limit
        shown = "an unknown number" if limit is None else f"{limit:,}"
        yield _finding("watches", "warning" if full else "ok", f"{known}{shown} watches", *((raised,) if full else ()))


def examine_journal(home: Path, now: datetime) -> Iterator[Finding]:
    """Yield the verdict on the journal: what is saved on this machine only, and since when."""
    from atlas_sdk.journal import Journal

    try:
        journal = Journal.existing(home)
        if journal is None:
            return
        with journal:
            found = journal.status()
    except AtlasError as problem:
        yield _finding("journal", "problem", str(problem))
        return
    if found.problem is not None and not found.held_back:
        yield _finding("journal", "problem", found.problem)
    if found.dropped:
        told = f"it was full: {count(found.dropped, 'intermediate version')} are lost"
        yield _finding("journal", "problem", told, "atlasctl db doctor    # the database takes nothing")
    if found.held_back:
        kept = "which is kept" if found.held_back == 1 else "which are kept"
        told = f"the database refuses {count(found.held_back, 'version')}, {kept} and tried again: {found.problem}"
        yield _finding("journal", "warning", told, "atlasctl status --all")
    if not found.records:
        yield _finding("journal", "ok", "everything is in the database")
        return
    age_s = 0.0 if found.oldest_at is None else (now - found.oldest_at).total_seconds()
    told = f"{count(found.records, 'version')} ({size(found.bytes)}) saved here, not in the database yet"
    late = f", for {age_s:,.0f} s" if age_s > _LATE_S else ""
    yield _finding("journal", "warning" if late else "ok", told + late, *(("atlasctl db doctor",) if late else ()))


def _finding(name: str, verdict: str, detail: str, *fix: str) -> Finding:
    return Finding(name=name, verdict=verdict, detail=detail, fix=fix)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None


def _watches(process: Path) -> int | None:
    """Return the number of inotify watches of a process, see proc(5); None if this user cannot see them."""
    try:
        instances = [one for one in (process / "fd").iterdir() if "inotify" in str(one.readlink())]
        texts = [(process / "fdinfo" / one.name).read_text("ascii") for one in instances]
    except OSError:
        return None
    return sum(line.startswith("inotify ") for text in texts for line in text.splitlines())

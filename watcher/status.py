"""The daemon's status: a file that the daemon replaces, and a lock that it holds while it runs.

This module imports nothing heavy: the command line reads the status before it opens the database.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import Attribute, asdict, evolve, field, frozen

from atlas_sdk import FileProblem
from atlas_sdk.home import open_private_file, replace_private_file
from watcher.lock import LOCK, holder

#: The status file, below the home folder.
STATUS = Path("watcher/status.json")
#: A daemon whose status is older is suspended or hangs, although it has its lock: a working daemon writes at least
#: every 20 s.
FRESH_S = 30.0
#: The states of a file. "saved": the newest content is in the database. "pending": the file changed and was not read
#: yet. "journal": the newest content is in the journal of this machine only. "too_large": only the hash is stored.
#: "deleted": the file was deleted recently. "unreadable", "lost", "problem": `why` says what is wrong. The command line
#: adds "saved_not_watched", for a file of a project that no daemon watches.
STATES = ("saved", "saved_not_watched", "pending", "journal", "unreadable", "too_large", "lost", "deleted", "problem")


def _time(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _now() -> datetime:
    return datetime.now(UTC)


@frozen(kw_only=True)
class FileStatus:
    """The status of one memory file."""

    path: str
    #: The hash of the newest stored version, 64 hex digits; None when there is none.
    sha256: str | None
    #: The time since which this content is stored.
    protected_since: datetime | None = field(converter=_time)
    #: The reason why newer content is not stored, if there is newer content.
    problem: str | None
    #: One of `STATES`.
    state: str = "saved"
    #: The time since which the file is in this state; None if it is unknown.
    since: datetime | None = field(default=None, converter=_time)
    #: The reason for this state, as a sentence; None for "saved".
    why: str | None = None


def _files(value: Any) -> tuple[FileStatus, ...]:
    return tuple(one if isinstance(one, FileStatus) else FileStatus(**_with_path(one)) for one in value)


def _with_path(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an entry of the status file, with its path decoded from the form of `to_text`."""
    from atlas_sdk.files import from_text  # noqa: PLC0415 - not needed where no daemon runs

    return {**fields, "path": from_text(fields["path"])}


@frozen(kw_only=True)
class PolledFolder:
    """A folder that the daemon polls, because it gets no events or not all of them."""

    #: The path in the project; `""` is the project's own folder.
    path: str
    reason: str


def _polled(value: Any) -> tuple[PolledFolder, ...]:
    return tuple(one if isinstance(one, PolledFolder) else PolledFolder(**_with_path(one)) for one in value)


@frozen(kw_only=True)
class ProjectStatus:
    """The status of one project."""

    id: str
    path: str
    #: True when the project's folder is gone, replaced or cannot be opened. Its files do not count as deleted then.
    lost: bool
    problem: str | None
    files: tuple[FileStatus, ...] = field(converter=_files)
    polled: tuple[PolledFolder, ...] = field(default=(), converter=_polled)


def _projects(value: Any) -> tuple[ProjectStatus, ...]:
    return tuple(one if isinstance(one, ProjectStatus) else ProjectStatus(**_with_path(one)) for one in value)


@frozen(kw_only=True)
class DatabaseStatus:
    """The state of the database."""

    #: True when versions can be stored.
    ok: bool
    problem: str | None = None
    #: The time at which `ok` last changed; None before the first answer.
    since: datetime | None = field(default=None, converter=_time)


def _database(value: Any) -> DatabaseStatus:
    return value if isinstance(value, DatabaseStatus) else DatabaseStatus(**value)


@frozen(kw_only=True)
class JournalNumbers:
    """The versions that are saved on this machine and not in the database yet."""

    records: int = 0
    bytes: int = 0
    #: The time of capture of the oldest of them; None when there is none.
    oldest_at: datetime | None = field(default=None, converter=_time)
    #: The number of versions that the database refused; they are tried again.
    held_back: int = 0
    #: The number of intermediate versions that were dropped because the journal was full.
    dropped: int = 0
    #: The reason why the journal cannot be written or read; None when it can.
    problem: str | None = None


def _journal(value: Any) -> JournalNumbers:
    return value if isinstance(value, JournalNumbers) else JournalNumbers(**value)


def _required_time(value: Any) -> datetime:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


@frozen(kw_only=True)
class MaintenanceStatus:
    """The last maintenance of the database, by any watcher or command."""

    at: datetime = field(converter=_required_time)
    #: "running", "done", "stopped" or "failed".
    outcome: str
    #: The number of deleted rows.
    removed: int = 0
    problem: str | None = None


def _maintenance(value: Any) -> MaintenanceStatus | None:
    return value if value is None or isinstance(value, MaintenanceStatus) else MaintenanceStatus(**value)


@frozen(kw_only=True)
class Status:
    """The status of the daemon at the time `written_at`."""

    pid: int
    started_at: datetime = field(converter=_required_time)
    written_at: datetime = field(factory=_now, converter=_required_time)
    #: True when every registered project is watched and was compared since the start.
    ready: bool = False
    #: "inotify", "observer" or "poll".
    backend: str = ""
    database: DatabaseStatus = field(default=DatabaseStatus(ok=False), converter=_database)
    journal: JournalNumbers = field(default=JournalNumbers(), converter=_journal)
    #: The number of files and projects that wait for the worker.
    pending: int = 0
    #: The time of the first change of the file that has waited longest; None when no file waits.
    oldest_pending_at: datetime | None = field(default=None, converter=_time)
    #: Since the start: events, captures, snapshots, deletions, scans, overflows, errors. Now: watch_failures, the
    #: number of projects with folders that cannot be watched.
    counters: Mapping[str, int] = field(factory=dict)
    projects: tuple[ProjectStatus, ...] = field(default=(), converter=_projects)
    #: None if this daemon knows of no maintenance.
    maintenance: MaintenanceStatus | None = field(default=None, converter=_maintenance)

    def age_s(self, now: datetime) -> float:
        """Return the age of the status in seconds."""
        return (now - self.written_at).total_seconds()

    def is_fresh(self, now: datetime) -> bool:
        """Return whether the status is so new that the daemon is probably still running."""
        return self.age_s(now) <= FRESH_S


def _stored(_: Any, attribute: "Attribute[Any] | None", value: Any) -> Any:
    """Return a path without lone surrogates, which some readers of JSON refuse; return other values unchanged."""
    from atlas_sdk.files import to_text  # noqa: PLC0415 - as above

    return to_text(value) if attribute is not None and attribute.name == "path" else value


def write(home: Path, status: Status) -> None:
    """Replace the status file in one step: a reader sees the old status or the new status."""
    # Turn one project at a time into text: as objects, ten thousand projects take 40 MB.
    projects = ",".join(_text(project) for project in status.projects)
    rest = _text(evolve(status, projects=()))
    replace_private_file(home / STATUS, rest.replace('"projects":[]', f'"projects":[{projects}]', 1))


def _text(value: Status | ProjectStatus) -> str:
    # JSON has no times: write them as text.
    return json.dumps(asdict(value, value_serializer=_stored), default=datetime.isoformat, separators=(",", ":"))


def read_status(home: Path) -> Status | None:
    """Return the status of this home's daemon; None when no daemon runs."""
    pid = holder(home / LOCK)
    if pid is None:
        return None
    with suppress(OSError, ValueError, TypeError, FileProblem):
        with os.fdopen(open_private_file(home / STATUS, os.O_RDONLY), encoding="ascii") as file:
            status = Status(**json.load(file))
        if status.pid == pid:
            return status
    # The status has another process id or cannot be read: the daemon has just started, or has another version.
    return Status(pid=pid, started_at=_now())

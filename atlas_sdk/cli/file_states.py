"""The state of each memory file of a project, from its versions, the journal, the watcher and the disk."""

import os
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from attrs import field, frozen

from atlas_sdk import AtlasError
from atlas_sdk.text import named

if TYPE_CHECKING:
    from atlas_sdk import Project, Snapshot, Tracking
    from atlas_sdk.files import FileState, Signature
    from atlas_sdk.journal import KnownHead, PendingFile
    from watcher.status import ProjectStatus

#: Each state, its words for people, and whether the newest content of the file may be lost. docs/status.md explains
#: them; a test compares the two.
STATES: Final[dict[str, tuple[str, bool]]] = {
    "saved": ("saved", False),
    "saved_not_watched": ("saved, not watched", True),
    "pending": ("pending", False),
    "journal": ("in the journal only", False),
    "changed": ("changed, not saved", True),
    "new": ("new, not saved", True),
    "too_large": ("too large", True),
    "unreadable": ("unreadable", True),
    "problem": ("problem", True),
    "lost": ("lost", True),
    "deleted": ("deleted", False),
    "not_tracked": ("not tracked any more", False),
}
#: A deletion is listed for this long.
RECENT: Final = timedelta(days=7)
#: A running watcher captures a change within seconds, so the watcher has missed a change that is older than this.
_YOUNG_S: Final = 10.0


@frozen(kw_only=True)
class Entry:
    """A file, or with the path `.` the project's folder, and its state."""

    path: str
    #: One of `STATES`.
    state: str
    #: The time since which the file is in this state; None if it is unknown.
    since: datetime | None = None
    #: The reason for the state, as a sentence; None if the state says it all.
    why: str | None = None
    #: Bytes; None if the file is not there or was not read.
    size: int | None = None
    #: The id of the newest version; None if there is none, or if only the journal has it.
    version: UUID | None = None
    #: False for a file that only looks like memory, and was never tracked.
    is_memory: bool = True

    @property
    def at_risk(self) -> bool:
        """True if the newest content of the file may be lost."""
        return STATES[self.state][1]


@frozen(kw_only=True)
class Newest:
    """The newest version of a file, from the database or from the journal."""

    #: 64 hex digits; None for a deletion.
    sha256: str | None
    mode: int
    link: str | None
    kept: bool | None
    at: datetime
    id: UUID | None = None

    @classmethod
    def of_version(cls, version: "Snapshot") -> "Newest":
        """Return the newest version of a file, as the database has it."""
        return cls(
            sha256=version.sha256,
            mode=version.mode,
            link=version.link,
            kept=version.kept,
            at=version.created_at,
            id=version.id,
        )

    @classmethod
    def of_head(cls, head: "KnownHead") -> "Newest":
        """Return the newest version of a file, as the journal knows it."""
        sha256 = None if head.sha256 is None else head.sha256.hex()
        return cls(sha256=sha256, mode=head.mode, link=head.link, kept=head.kept, at=head.captured_at)

    def is_of(self, found: "FileState") -> bool:
        """Return whether the file has the content, the mode and the link of this version."""
        return (self.sha256, self.mode, self.link) == (found.sha256.hex(), found.mode, found.link)


@frozen(kw_only=True)
class Knowledge:
    """The knowledge about a project, without a look at its files."""

    project: "Project"
    newest: Mapping[str, Newest]
    #: The files with versions in the journal.
    pending: "Mapping[str, PendingFile]" = field(factory=dict)
    #: The report of a watcher that works and watches this project; None without one.
    watched: "ProjectStatus | None" = None
    #: True if the project was registered after the watcher's last report.
    is_younger_than_report: bool = False
    now: datetime = field(factory=lambda: datetime.now(UTC))

    @property
    def is_watched(self) -> bool:
        """True if a working watcher captures changes of this project."""
        return self.watched is not None and not self.watched.lost and self.watched.problem is None


def file_entries(known: Knowledge) -> list[Entry]:
    """Return an entry for every file that is memory or looks like it, was recorded, or was deleted recently."""
    from atlas_sdk import Tracking

    root = Path(known.project.path)
    if not known.project.had_folder and not os.path.lexists(root):
        return _without_folder(known)
    try:
        tracking = Tracking.load(root)
        scan = tracking.scan(root)
    except AtlasError as problem:
        if not root.is_dir():
            return _lost(known, str(problem))
        return [Entry(path=".", state="problem", why=str(problem))]
    entries = {one.path: _skipped(one.path, one.reason, known) for one in scan.skipped}
    entries |= {link.path: _dangling(link.path, link.reason, known) for link in scan.dangling}
    for one in scan.lookalikes:
        if one.path not in known.newest:
            entries[one.path] = Entry(path=one.path, state="not_tracked", why=one.reason, is_memory=False)
    tracked = set(scan.paths)
    for path in sorted(tracked | known.newest.keys() | known.pending.keys()):
        if path not in entries:
            entries[path] = _Look(
                known, root, tracking, path, is_tracked=path in tracked or not scan.untracks(path)
            ).entry()
    if known.watched is not None:
        entries = _as_the_watcher_sees(entries, known.watched)
    return sorted((one for one in entries.values() if not _is_old_deletion(one, known)), key=lambda one: one.path)


def _is_old_deletion(one: Entry, known: Knowledge) -> bool:
    return one.state == "deleted" and one.since is not None and known.now - one.since > RECENT


def _without_folder(known: Knowledge) -> list[Entry]:
    """Return the files of a project that a program registered, and that never had a folder here."""
    why = "there is no folder on this machine: a program stores the versions"
    return [
        Entry(path=path, state="saved", since=one.at, why=why, version=one.id)
        for path, one in sorted(known.newest.items())
        if one.sha256 is not None
    ]


def _lost(known: Knowledge, why: str) -> list[Entry]:
    since = None
    if known.watched is not None:
        since = next((file.since for file in known.watched.files if file.state == "lost"), None)
    paths = [path for path, one in sorted(known.newest.items()) if one.sha256 is not None]
    return [
        Entry(path=".", state="lost", since=since, why=why),
        *(Entry(path=path, state="lost", since=since, version=known.newest[path].id) for path in paths),
    ]


def _skipped(path: str, reason: str, known: Knowledge) -> Entry:
    version = known.newest.get(path)
    return Entry(path=path or ".", state="unreadable", why=reason, version=None if version is None else version.id)


def _dangling(path: str, reason: str, known: Knowledge) -> Entry:
    """Return the entry of a symlink whose target is gone."""
    newest = known.newest.get(path)
    since = newest.at if newest is not None and newest.sha256 is None else None
    return Entry(path=path, state="deleted", since=since, why=reason, version=None if newest is None else newest.id)


def _as_the_watcher_sees(entries: dict[str, Entry], watched: "ProjectStatus") -> dict[str, Entry]:
    """Add the problems of the watcher: with the project, and with files whose newest content is not saved."""
    for file in watched.files:
        known = entries.get(file.path)
        if file.problem is not None and known is not None and known.state in {"pending", "changed", "new"}:
            state = file.state if file.state in {"unreadable", "too_large"} else "problem"
            entries[file.path] = Entry(
                path=file.path,
                state=state,
                since=file.since,
                why=file.problem,
                size=known.size,
                version=known.version,
            )
    if watched.problem is not None or watched.lost:
        why = f"the watcher: {watched.problem or 'the folder is lost'}"
        entries["."] = Entry(path=".", state="lost" if watched.lost else "problem", why=why)
    return entries


class _Look:
    """One look at a file of a project."""

    def __init__(self, known: Knowledge, root: Path, tracking: "Tracking", path: str, *, is_tracked: bool) -> None:
        self._known = known
        self._root = root
        self._tracking = tracking
        self._path = path
        self._is_tracked = is_tracked
        self._newest = known.newest.get(path)
        self._pending = known.pending.get(path)

    def entry(self) -> Entry:
        from atlas_sdk.files import read_file

        if not self._is_tracked and self._is_gone() is False:
            return self._untracked()
        try:
            found = read_file(self._root, self._path, limit_bytes=self._tracking.limit_bytes)
        except AtlasError as problem:
            if self._is_gone():
                return self._deleted("a folder is in its place")
            return self._made("unreadable", why=str(problem))
        if found is None:
            return self._deleted(None)
        if self._is_pending(found):
            return self._in_journal(found)
        if self._newest is None or not self._newest.is_of(found):
            return self._unsaved(found)
        if self._newest.kept is False or (found.content is None and self._newest.kept is not True):
            return self._too_large(found)
        return self._saved(found)

    def _made(self, state: str, **fields: Any) -> Entry:
        return Entry(path=self._path, state=state, version=None if self._newest is None else self._newest.id, **fields)

    def _is_gone(self) -> bool | None:
        """Return whether a recorded file is gone, also if a folder is in its place; None if that cannot be told."""
        from atlas_sdk.files import is_gone

        try:
            return is_gone(self._root, self._path)
        except AtlasError:
            return None

    def _deleted(self, why: str | None) -> Entry:
        if self._newest is not None and self._newest.sha256 is None:
            return self._made("deleted", since=self._newest.at, why=why)
        not_recorded = "its last content is saved, and the deletion is not recorded yet"
        return self._made("deleted", why=not_recorded if why is None else f"{why}: {not_recorded}")

    def _untracked(self) -> Entry:
        """Return the state of a file that the settings, an import or a repository has left out."""
        from atlas_sdk.files import repository_root

        settings = self._root / ".atlas.toml"
        since = None
        border = repository_root(str(self._root / self._path))
        if border is not None and len(border) > len(str(self._root)):
            why = f"it is in a git repository of its own, {named(border)}"
        elif settings.is_file() and not self._tracking.wants(self._path):
            why = "no preset, glob or import of .atlas.toml names it"
            since = datetime.fromtimestamp(settings.lstat().st_mtime, UTC)
        else:
            why = "no instruction file imports it"
        return self._made("not_tracked", since=since, why=f"{why}; its history is kept")

    def _is_pending(self, found: "FileState") -> bool:
        """Return whether the journal has this content, and the database does not."""
        pending = self._pending
        if pending is None or pending.sha256 != found.sha256:
            return False
        return self._newest is None or self._newest.id is None or not self._newest.is_of(found)

    def _in_journal(self, found: "FileState") -> Entry:
        pending = self._pending
        assert pending is not None  # noqa: S101 - `_is_pending` has looked
        if pending.problem is not None:
            why = f"the database refuses it: {pending.problem}"
            return self._made("problem", since=pending.oldest_at, why=why, size=found.size)
        return self._made("journal", since=pending.newest_at, size=found.size)

    def _unsaved(self, found: "FileState") -> Entry:
        since = _changed_at(found.signature, self._known.now)
        if self._known.is_watched and _is_young(found.signature):
            return self._made("pending", since=since, size=found.size)
        return self._made("new" if self._newest is None else "changed", since=since, size=found.size)

    def _too_large(self, found: "FileState") -> Entry:
        newest = self._newest
        limit = f"the size limit of {self._tracking.limit_bytes:,} bytes"
        if found.content is None:
            why = f"it is over {limit}, so only its hash is saved"
        else:
            why = "it was over the size limit, so only its hash is saved; atlasctl snapshot saves it now"
        return self._made("too_large", since=None if newest is None else newest.at, why=why, size=found.size)

    def _saved(self, found: "FileState") -> Entry:
        known, newest = self._known, self._newest
        since = None if newest is None else newest.at
        if known.is_watched:
            return self._made("saved", since=since, size=found.size)
        if known.watched is None and known.is_younger_than_report:
            why = "the watcher has not reported since the project was registered"
            return self._made("pending", since=since, why=why, size=found.size)
        return self._made("saved_not_watched", since=since, size=found.size)


def _is_young(signature: "Signature") -> bool:
    """Return whether a file has changed within 10 s. An `mtime` far in the future does not count: it can be forged."""
    now_ns = time.time_ns()
    return any(abs(now_ns - at_ns) < _YOUNG_S * 1e9 for at_ns in (signature.mtime_ns, signature.ctime_ns))


def _changed_at(signature: "Signature", now: datetime) -> datetime:
    # No program can set `ctime`, so take it; a clock that was set back must not give a time in the future.
    return min(datetime.fromtimestamp(signature.ctime_ns / 1e9, UTC), now)


def worst(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries whose newest content may be lost."""
    return [one for one in entries if one.at_risk]

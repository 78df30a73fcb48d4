"""The daemon's knowledge about one project."""

import os
import stat
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from attrs import Factory, define, field

from atlas_sdk import AtlasError, Project, Tracking
from atlas_sdk.files import Root, Signature, pin, signature
from atlas_sdk.journal import KnownHead

#: If a program writes a file twice within one tick of the file system's clock, `stat` is the same after both writes.
#: FAT has the coarsest clock, two seconds. What was younger than this when the daemon looked at it, is looked at once
#: more by a later scan (git calls such a file "racy").
COARSEST_NS = 2_000_000_000
#: The project's own settings. A change of them may change which files are tracked.
SETTINGS = ".atlas.toml"


@define(eq=False)
class Folder:
    """One registered project. The worker changes it; the backend's thread only calls `affected_paths`."""

    project: Project
    root: Path = field(init=False, default=Factory(lambda self: Path(self.project.path), takes_self=True))
    tracking: Tracking = Factory(Tracking)
    #: The newest version of every file that exists. An entry changes only after the journal has the version.
    known: dict[str, KnownHead] = Factory(dict)
    #: Files whose newest version in the database may differ from `known`: the next look makes a record in any case.
    stale: set[str] = Factory(set)
    #: Files that were deleted, each with the time.
    deleted: dict[str, datetime] = Factory(dict)
    #: The time of the newest capture; None when there is none.
    active_at: datetime | None = None
    #: Watched folders, each with its device, inode and ctime from the time when the scan listed it.
    folders: dict[str, tuple[int, int, int] | None] = Factory(dict)
    #: The folders that are polled, each with the reason.
    unwatched: dict[str, str] = Factory(dict)
    #: The time of the next attempt to watch them.
    watch_again_at: float = 0.0
    #: The folders that held memory once. Their nearest existing folders are watched, so that memory that comes back is
    #: seen.
    former: dict[str, None] = Factory(dict)
    #: Folders without memory that are not watched, with device, inode and ctime from before the scan listed them.
    searched: Mapping[str, tuple[int, int, int] | None] = Factory(dict)
    #: Files that no glob tracks: an instruction file imports them, or they have the name of instructions in a folder of
    #: the project.
    imports: frozenset[str] = frozenset()
    #: Paths whose change may add or remove tracked files: see `Scan.awaited`.
    awaited: frozenset[str] = frozenset()
    #: True if not every folder of `awaited` is watched: each sweep has to search the project.
    awaits_more: bool = False
    #: Recorded files that exist but are not tracked any more. Only their end is recorded.
    untracked: set[str] = Factory(set)
    #: The tracked files to look at when a path changes: the symlinks that lead to it, and its other names (hard links).
    aliases: dict[str, tuple[str, ...]] = Factory(dict)
    #: The reason why the project is lost: its folder is gone, replaced or cannot be opened. None when it is not lost.
    lost: str | None = None
    #: The time when the project was lost.
    lost_since: float = 0.0
    #: Device, inode and owner of the project's own folder at the last scan.
    identity: tuple[int, int] | None = None
    owner: int | None = None
    #: True when the last scan saw a temporary file that a killed restore has left behind.
    leftovers: bool = False
    #: The project is not scanned before this time.
    rest_until: float = 0.0
    #: One sentence for each path with a problem; `""` is the project.
    problems: dict[str, str] = Factory(dict)
    #: For each path with a problem, the state of the file (see `status.STATES`) and the time since which it has it.
    problem_states: dict[str, tuple[str, datetime]] = Factory(dict)

    @property
    def id(self) -> UUID:
        """The id of the project in the database."""
        return self.project.id

    @property
    def pinned(self) -> Root:
        """The project's folder, with its identity at the last scan: a read refuses another folder in its place."""
        return Root(self.root, self.identity)

    def affected_paths(self, path: str, *, is_folder: bool) -> tuple[str, ...]:
        """Return the tracked files that an event may be about; `""` asks for a scan."""
        if path == SETTINGS or path in self.awaited:
            return ("",)
        if is_folder:
            return ("",) if path in self.folders or self.tracking.leads(path) else ()
        aliases = self.aliases.get(path, ())
        if path in self.imports or path in self.known or self.tracking.wants(path):
            return (path, *aliases)
        return ("", *aliases) if self.tracking.may_be_nested(path) else aliases

    def take(self, head: KnownHead) -> None:
        """Make this the newest version of its file."""
        if head.sha256 is None:
            self.known.pop(head.path, None)
            self.deleted[head.path] = head.captured_at
            self.former[head.path.rpartition("/")[0]] = None
        else:
            self.known[head.path] = head
            self.deleted.pop(head.path, None)
        if self.active_at is None or self.active_at < head.captured_at:
            self.active_at = head.captured_at

    def note(self, path: str, problem: str | None, *, state: str = "unreadable") -> bool:
        """Store the problem of a path, or remove it if `problem` is None; return whether the problem has changed."""
        if problem == self.problems.get(path):
            return False
        if problem is None:
            del self.problems[path]
            self.problem_states.pop(path, None)
        else:
            self.problems[path] = problem
            self.problem_states[path] = (state, datetime.now(UTC))
        return True

    def is_unchanged(self) -> bool:
        """Return whether `stat` of every known file and watched folder is the same as at the last scan.

        A file with a problem may be without it now, so its project does not count as unchanged.
        """
        if self.identity is None or self.lost is not None or self.awaits_more or any(self.problems):
            return False
        try:
            return (
                all(self.stamp(folder) == stamp for folder, stamp in self.folders.items())
                and all(self._looks_like(path, known) for path, known in self.known.items())
                and all(self.stamp(folder) == stamp for folder, stamp in self.searched.items())
            )
        except (AtlasError, OSError):
            return False

    def _looks_like(self, path: str, known: KnownHead) -> bool:
        # Use the path without the checks of `pinned`, because the sweep calls this for every file. This is safe: no
        # content is read, and if a symlink has replaced a folder, `stat` differs and a scan follows.
        found = os.lstat(self.path_of(path))
        if stat.S_ISLNK(found.st_mode):
            return known.signature is not None and signature(self.pinned, path) == known.signature
        return known.signature is not None and Signature.of(found) == known.signature

    def stamp(self, folder: str) -> tuple[int, int, int] | None:
        """Return numbers that change when an entry of a folder is made or removed; None when there is no folder."""
        try:
            found = os.stat(self.path_of(folder))  # noqa: PTH116 - the sweep's hot path
        except OSError:
            return None
        # Not the mtime, which any program can set back, as rsync does.
        return found.st_dev, found.st_ino, found.st_ctime_ns

    def trusted_stamp(self, folder: str) -> tuple[int, int, int] | None:
        """Return the stamp of a folder; None if it has changed so recently that another change might not show."""
        stamp = self.stamp(folder)
        return None if stamp is None or is_recent(stamp[2], time.time_ns()) else stamp

    def path_of(self, path: str) -> str:
        """Return the full path of a path in the project; `""` is the project's folder."""
        return os.path.join(self.root, path) if path else str(self.root)  # noqa: PTH118 - the sweep's hot path

    def is_there(self) -> bool:
        """Return whether the folder of the last scan is in its place and can be opened."""
        return _is_reachable(self.pinned)

    def is_back(self) -> bool:
        """Return whether any folder is in the project's place and can be opened."""
        return _is_reachable(Root(self.root))


def is_recent(at_ns: int, now_ns: int) -> bool:
    """Return whether a file or folder changed so recently that a later change might leave the same `stat`."""
    return now_ns - at_ns <= COARSEST_NS


def _is_reachable(root: Root) -> bool:
    try:
        pin(root)
    except AtlasError:
        return False
    return True

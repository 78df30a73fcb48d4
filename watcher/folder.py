"""What the daemon knows about one project."""

import os
from datetime import datetime
from pathlib import Path
from uuid import UUID

from attrs import Factory, define, frozen

from atlas_sdk import AtlasError, Project, Signature, Tracking
from atlas_sdk.files import signature
from watcher.status import FileStatus, ProjectStatus

__all__ = ["SETTINGS", "Folder", "Known"]

#: The project's own settings: when they change, so does what is tracked.
SETTINGS = ".atlas.toml"


@frozen(kw_only=True)
class Known:
    """The newest stored version of a file, as far as this daemon knows. Only made once it is stored."""

    #: What `stat` said about the file with this content; None: not known, or too fresh to be trusted.
    signature: Signature | None
    #: 64 hex digits.
    sha256: str
    mode: int
    link: str | None
    #: Since when exactly this content is safe.
    protected_since: datetime


@define(eq=False)
class Folder:
    """One registered project. The worker changes it; the backend's thread only asks `concerned`."""

    project: Project
    root: Path
    tracking: Tracking = Factory(Tracking)
    known: dict[str, Known] = Factory(dict)
    #: Files of which `known` may be wrong: the next look at them asks the database, whatever it finds.
    doubted: set[str] = Factory(set)
    #: Whether `known` was filled from the database.
    loaded: bool = False
    #: Watched folders by the device, inode and mtime that they had when they were listed.
    folders: dict[str, tuple[int, int, int] | None] = Factory(dict)
    #: Those that cannot be watched.
    unwatched: frozenset[str] = frozenset()
    #: Tracked without a matching glob, because an instruction file imports them.
    imports: frozenset[str] = frozenset()
    #: Tracked symlinks by the file in the project that they lead to.
    aliases: dict[str, tuple[str, ...]] = Factory(dict)
    #: Why the project is not looked after now; None when it is.
    lost: str | None = None
    lost_since: float = 0.0
    #: Device and inode of the project's own folder when it was last scanned.
    identity: tuple[int, int] | None = None
    #: One sentence a path, `""` for the project.
    problems: dict[str, str] = Factory(dict)

    @classmethod
    def of(cls, project: Project) -> "Folder":
        """Begin to know a project: nothing yet."""
        return cls(project, Path(project.path))

    @property
    def id(self) -> UUID:
        """The project's id."""
        return self.project.id

    def concerned(self, path: str, *, is_folder: bool) -> tuple[str, ...]:
        """Return the tracked files that an event may be about, `""` for a scan, nothing for all the rest."""
        if is_folder:
            return ("",) if path in self.folders or self.tracking.leads(path) else ()
        if path == SETTINGS:
            return ("",)
        aliases = self.aliases.get(path, ())
        if path in self.imports or path in self.known or self.tracking.wants(path):
            return (path, *aliases)
        return aliases

    def note(self, path: str, problem: str | None) -> bool:
        """Remember what is the matter with a file, None for nothing; return whether that is news."""
        if problem == self.problems.get(path):
            return False
        if problem is None:
            del self.problems[path]
        else:
            self.problems[path] = problem
        return True

    def is_unchanged(self) -> bool:
        """Tell by `stat` alone whether a scan would find what the last one found."""
        if not self.loaded or self.lost is not None:
            return False
        try:
            return all(self.stamp(folder) == stamp for folder, stamp in self.folders.items()) and all(
                known.signature is not None and signature(self.root, path) == known.signature
                for path, known in self.known.items()
            )
        except AtlasError:
            return False

    def stamp(self, folder: str) -> tuple[int, int, int] | None:
        """Return what changes when an entry of a folder comes or goes; None when there is no folder."""
        try:
            found = os.stat(self.path_of(folder))  # noqa: PTH116 - the sweep's hot path
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns

    def path_of(self, path: str) -> str:
        """Return where a path of the project is."""
        return os.path.join(self.root, path) if path else str(self.root)  # noqa: PTH118 - the sweep's hot path

    def is_there(self) -> bool:
        """Whether the project's own folder exists and may be asked for."""
        return os.path.isdir(self.root)  # noqa: PTH112 - Path.is_dir raises for a parent that may not be searched

    def status(self) -> ProjectStatus:
        """Say what is protected, and what is not."""
        names = sorted({*self.known, *(path for path in self.problems if path)})
        return ProjectStatus(
            id=str(self.project.id),
            path=self.project.path,
            lost=self.lost is not None,
            problem=self.lost or self.problems.get(""),
            files=tuple(self._file_status(path) for path in names),
        )

    def _file_status(self, path: str) -> FileStatus:
        known = self.known.get(path)
        return FileStatus(
            path=path,
            sha256=None if known is None else known.sha256,
            protected_since=None if known is None else known.protected_since,
            problem=self.problems.get(path),
        )

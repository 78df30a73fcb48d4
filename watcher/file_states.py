"""The state of each file of a project, in the words of `watcher.status.STATES`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from uuid import UUID

from attrs import frozen

from atlas_sdk.files import printable
from atlas_sdk.journal import Journal, JournalProblem, JournalStatus, PendingFile
from watcher.folder import Folder
from watcher.status import FileStatus, PolledFolder, ProjectStatus

#: A deleted file is shown for this long.
_SHOWN = timedelta(days=1)


@frozen(kw_only=True)
class Surroundings:
    """The things outside a `Folder` that decide the states of its files."""

    now: datetime
    #: The files that wait for the worker, by project, each with the time of its first change.
    waiting: Mapping[UUID, Mapping[str, float]]
    #: The files with versions in the journal, by project.
    pending: Mapping[UUID, Mapping[str, PendingFile]]
    #: The reason why the journal is not delivered now; None while the database answers.
    away: str | None
    #: Turn a time of `waiting` into a date.
    date: Callable[[float], datetime]


def project_status(folder: Folder, around: Surroundings) -> ProjectStatus:
    """Return the status of a project: its files, and the problems."""
    waiting, pending = around.waiting.get(folder.id, {}), around.pending.get(folder.id, {})
    names = {*folder.known, *folder.problems, *waiting, *pending}
    names |= {path for path, at in folder.deleted.items() if around.now - at < _SHOWN}
    return ProjectStatus(
        id=str(folder.id),
        path=folder.project.path,
        lost=folder.lost is not None,
        problem=folder.lost or folder.problems.get(""),
        polled=tuple(PolledFolder(path=path, reason=reason) for path, reason in sorted(folder.unwatched.items())),
        files=tuple(_file_status(folder, path, around) for path in sorted(names - {""})),
    )


def _file_status(folder: Folder, path: str, around: Surroundings) -> FileStatus:
    known = folder.known.get(path)
    pending = around.pending.get(folder.id, {}).get(path)
    refusal = None if pending is None or pending.problem is None else f"{printable(path)}: {pending.problem}"
    state, since, why = _state(folder, path, around, pending, refusal)
    return FileStatus(
        path=path,
        sha256=None if known is None or known.sha256 is None else known.sha256.hex(),
        protected_since=None if known is None else known.captured_at,
        problem=folder.problems.get(path) or refusal,
        state=state,
        since=since,
        why=why,
    )


def _state(
    folder: Folder, path: str, around: Surroundings, pending: PendingFile | None, refusal: str | None
) -> tuple[str, datetime | None, str | None]:
    known = folder.known.get(path)
    if folder.lost is not None:
        return "lost", around.date(folder.lost_since), folder.lost
    for one in (path, *_folders_above(path)) if folder.problems else ():
        # A problem of a folder is one of its files too: a file below a symlink, for example, is not looked at.
        if one in folder.problem_states:
            state, since = folder.problem_states[one]
            return state, since, folder.problems[one]
    if pending is not None and refusal is not None:
        return "problem", pending.oldest_at, refusal
    first = around.waiting.get(folder.id, {}).get(path)
    if first is not None:
        return "pending", around.date(first), "it changed, and is read as soon as its writer is done"
    if pending is not None:
        why = "it is saved on this machine, and not in the database yet"
        return "journal", pending.oldest_at, why if around.away is None else f"{why}: {around.away}"
    if known is None:
        return "deleted", folder.deleted.get(path), "the file was deleted; its versions stay"
    if not known.kept:
        limit = folder.tracking.limit_bytes
        return "too_large", known.captured_at, f"it has more than {limit:,} bytes, so only its hash is stored"
    return "saved", known.captured_at, None


def _folders_above(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


class Pending:
    """The part of the journal that the status shows. A journal that cannot be read shows in its status."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def status(self) -> JournalStatus:
        """Return the size and the state of the journal."""
        return self._journal.status()

    def files(self, project: UUID) -> list[PendingFile]:
        """Return the files of a project with versions in the journal."""
        try:
            return [] if self._journal.is_empty() else self._journal.files(project)
        except JournalProblem:
            return []

    def by_project(self, projects: Iterable[UUID]) -> dict[UUID, dict[str, PendingFile]]:
        """Return the files with versions in the journal, by project and path."""
        found = {}
        try:
            if not self._journal.is_empty():
                for project in projects:
                    if not self._journal.is_empty(project):
                        found[project] = {file.path: file for file in self._journal.files(project)}
        except JournalProblem:
            pass
        return found

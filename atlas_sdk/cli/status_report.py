"""Collect what `atlasctl status` shows: from the database, or while that is away, from the journal of this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen

from atlas_sdk import DatabaseUnreachable, JournalProblem
from atlas_sdk.cli.file_states import Entry, Knowledge, Newest, file_entries
from atlas_sdk.cli.without_database import remembered
from atlas_sdk.journal import Journal, JournalStatus

if TYPE_CHECKING:
    from atlas_sdk import Atlas, Project
    from atlas_sdk.cli.invocation import Invocation
    from atlas_sdk.results import MemoryUsage
    from watcher.status import PolledFolder, ProjectStatus, Status


@frozen(kw_only=True)
class Report:
    """The state of the watcher, the journal, the database, and each file of the projects."""

    now: datetime
    #: The watcher's own report; None when no watcher runs.
    watcher: "Status | None"
    journal: JournalStatus
    #: The reason why the database does not answer this command; None when it does.
    database_problem: str | None
    #: None while the database is away.
    memory: "MemoryUsage | None"
    #: Each project with its files, and True if a working watcher watches it.
    projects: "list[tuple[Project, list[Entry], bool]]"

    @property
    def is_responding(self) -> bool:
        """True if the watcher has said something lately."""
        return self.watcher is not None and self.watcher.is_fresh(self.now)

    @property
    def at_risk(self) -> list[Entry]:
        """The files whose newest content, or next change, may be lost."""
        return [one for _, entries, _ in self.projects for one in entries if one.at_risk]

    def polled(self, project: "Project") -> "tuple[PolledFolder, ...]":
        """Return the folders of a project that a working watcher polls; the reasons say why."""
        known = watched_project(self.watcher, project) if self.is_responding else None
        return () if known is None else known.polled

    def knows(self, project: "Project") -> bool:
        """Return whether the watcher's report has a project."""
        return watched_project(self.watcher, project) is not None


def watched_project(watcher: "Status | None", project: "Project") -> "ProjectStatus | None":
    """Return the watcher's report of a project; None when there is no watcher, or it does not know the project."""
    if watcher is None:
        return None
    # The watcher of this home may use another database. Then the watcher does not know this project.
    return next((one for one in watcher.projects if one.id == str(project.id)), None)


def collect(run: "Invocation", watcher: "Status | None", now: datetime, *, everything: bool) -> Report:
    """Return the report on the current project, or on every project of the user.

    Raises DatabaseUnreachable when the database is away and the journal knows nothing of the project either.
    """
    with _journal(run.settings.folder) as (journal, state):
        sources = _Sources(watcher=watcher if watcher is not None and watcher.is_fresh(now) else None, now=now)
        try:
            with run.opened() as atlas:
                user = run.owner(atlas)
                projects = atlas.projects.list(user) if everything else [run.project(atlas)]
                found = [sources.of_database(atlas, project, journal) for project in projects]
                memory = atlas.quotas.memory(user)
                problem = None
        except DatabaseUnreachable as away:
            projects = remembered(run.start, journal, everything=everything)
            if journal is None or not projects:
                raise
            found = [sources.of_journal(journal, project) for project in projects]
            memory, problem = None, str(away)
    return Report(
        now=now,
        watcher=watcher,
        journal=state,
        database_problem=problem,
        memory=memory,
        projects=[(one.project, file_entries(one), one.is_watched) for one in found],
    )


@contextmanager
def _journal(home: Path) -> Iterator[tuple[Journal | None, JournalStatus]]:
    """Open the journal of a home if there is one. A journal that cannot be read is a problem of the status."""
    try:
        journal = Journal.existing(home)
    except JournalProblem as problem:
        yield None, JournalStatus(problem=str(problem))
        return
    if journal is None:
        yield None, JournalStatus()
        return
    with journal:
        yield journal, journal.status()


@frozen(kw_only=True)
class _Sources:
    """The places that know about a project."""

    #: A watcher that works; None without one.
    watcher: "Status | None"
    now: datetime = field()

    def of_database(self, atlas: "Atlas", project: "Project", journal: Journal | None) -> Knowledge:
        newest = {version.path: Newest.of_version(version) for version in atlas.memory.files(project)}
        return self._knowledge(project, newest, journal)

    def of_journal(self, journal: Journal, project: "Project") -> Knowledge:
        heads = journal.heads(project.id).get(project.id, [])
        return self._knowledge(project, {head.path: Newest.of_head(head) for head in heads}, journal)

    def _knowledge(self, project: "Project", newest: dict[str, Newest], journal: Journal | None) -> Knowledge:
        watcher = self.watcher
        return Knowledge(
            project=project,
            newest=newest,
            pending={} if journal is None else {one.path: one for one in journal.files(project.id)},
            watched=watched_project(watcher, project),
            is_younger_than_report=watcher is not None and watcher.written_at <= project.created_at,
            now=self.now,
        )

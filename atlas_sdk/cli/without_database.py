"""`snapshot` and `checkpoint` while the database is away: the journal of this machine takes what they capture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from atlas_sdk import AtlasError, DatabaseUnreachable, JournalProblem, NotAProject, StorageFull
from atlas_sdk.cli.capturing import warn_skipped
from atlas_sdk.cli.failures import FAILED
from atlas_sdk.cli.json_output import fields_of, of_skipped
from atlas_sdk.cli.output import count, plain, size

if TYPE_CHECKING:
    from atlas_sdk import Project
    from atlas_sdk.cli.invocation import Invocation
    from atlas_sdk.journal import Journal, LocalCapture, Record

#: The errors of a database that is away as a whole.
AWAY = (DatabaseUnreachable, StorageFull)


def remember(run: "Invocation", project: "Project", *, makes: bool = False) -> None:
    """Let the journal remember a project as it is now, so that captures go on while the database is away.

    Without `makes`, the call does nothing where there is no journal.
    """
    from atlas_sdk.journal import Journal

    try:
        journal = (Journal.open if makes else Journal.existing)(run.settings.folder)
        if journal is not None:
            with journal:
                journal.remember_projects([project])
    except JournalProblem as problem:
        run.out.warn(f"while the database is away, nothing can be captured here: {problem}")


def count_here(run: "Invocation", project: "Project") -> int:
    """Return the number of versions of a project that are in the journal of this machine, and not in the database."""
    from atlas_sdk.journal import Journal

    journal = Journal.existing(run.settings.folder)
    if journal is None:
        return 0
    with journal:
        return sum(one.records for one in journal.files(project.id))


def forget_here(run: "Invocation", project: "Project") -> None:
    """Remove a project from the journal of this machine, with its versions there."""
    from atlas_sdk.journal import Journal

    journal = Journal.existing(run.settings.folder)
    if journal is not None:
        with journal:
            journal.forget_project(project.id)


def save_here(
    run: "Invocation",
    away: AtlasError,
    paths: Sequence[str] = (),
    *,
    checkpoint: str | None = None,
    note: str | None = None,
) -> int:
    """Capture into the journal, print the result, and return the exit code.

    Raises `away`, the error of the database, if the journal does not know the project, and NotAProject when another
    repository begins between the folder and the project.
    """
    from atlas_sdk import Attribution
    from atlas_sdk.actor import login_name
    from atlas_sdk.journal import Journal, capture

    journal = Journal.existing(run.settings.folder)
    if journal is None:
        raise away
    with journal:
        found = remembered(run.start, journal, everything=False)
        if not found:
            raise away
        (project,) = found
        captured = capture(
            journal,
            project,
            attribution=Attribution(source="cli", login=login_name()),
            paths=[run.path(project, path) for path in paths],
            checkpoint=checkpoint,
            note=note,
        )
    _show(run, away, captured)
    return FAILED if captured.skipped and checkpoint is None else 0


def remembered(start: str, journal: "Journal | None", *, everything: bool) -> "list[Project]":
    """Return the active projects that the journal remembers: all of them, or the innermost one around a folder.

    The user is not known while the database is away: a home belongs to one person. Raises NotAProject when another
    repository begins between the folder and the project.
    """
    from atlas_sdk.files import real_folders

    active = [] if journal is None else [one for one in journal.projects() if one.status == "active"]
    if everything:
        return active
    inside, outside = real_folders(start)
    by_path = {one.path: one for one in active}
    if (inner := next((by_path[folder] for folder in inside if folder in by_path), None)) is not None:
        return [inner]
    if (outer := next((folder for folder in outside if folder in by_path), None)) is not None:
        raise NotAProject(start, border=inside[-1], outer=outer)
    return []


def _show(run: "Invocation", away: AtlasError, captured: "LocalCapture") -> None:
    out = run.out
    if out.json:
        out.record(
            {
                "saved": "journal",
                "taken": [_fields(record) for record in captured.records],
                "skipped": [of_skipped(*entry) for entry in captured.skipped],
                "problem": str(away),
            }
        )
    else:
        from atlas_sdk.text import printable

        named = [record for record in captured.records if record.op == "checkpoint"]
        files = [record for record in captured.records if record.op != "checkpoint"]
        out.table(
            [
                (
                    record.id.hex[:12],
                    record.op,
                    printable(record.path),
                    "" if record.op == "deletion" else size(record.size),
                )
                for record in files
            ],
            styles=("yellow", "green", "", "dim"),
        )
        for record in named:
            out.line(f"{plain(record.name or '')}: {count(captured.files, 'file')}")
        out.line(
            "saved here, not in the database yet"
            if captured.records
            else f"up to date: {count(captured.files, 'file')}"
        )
        warn_skipped(out, captured.skipped)
    out.warn(f"{away}; what is saved here is stored when the database is back")


def _fields(record: "Record") -> dict[str, Any]:
    from atlas_sdk.files import to_text

    return fields_of(
        record,
        "id op path name size sha256 captured_at",
        path=to_text(record.path),
        sha256=None if record.sha256 is None else record.sha256.hex(),
    )

"""`atlasctl init`: protect a folder."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atlas_sdk.cli.capturing import note_lookalikes, unkept, warn_skipped
from atlas_sdk.cli.command import Command
from atlas_sdk.cli.folders import folder_of
from atlas_sdk.cli.invocation import Invocation, pass_run
from atlas_sdk.cli.json_output import of_project, of_skipped, of_version
from atlas_sdk.cli.output import count, size
from atlas_sdk.cli.without_database import remember
from atlas_sdk.text import printable

if TYPE_CHECKING:
    from atlas_sdk import Project, Snapshot


@click.command(
    cls=Command,
    examples=(
        "atlasctl init",
        "atlasctl init ~/code/app",
        "atlasctl init --user",
        "atlasctl init ~/code/new --from ~/old/app",
        "atlasctl init . --json",
    ),
)
@click.argument("path", required=False)
@click.option("--user", "of_user", is_flag=True, help="Your own memory, such as ~/.claude, instead of a project's.")
@click.option("--here", is_flag=True, help="This folder, although it is inside of a repository; no question.")
@click.option("--from", "source", metavar="OLD", help="Continue the history of this project, whose folder was moved.")
@click.option("--force", is_flag=True, help="Also the home folder itself, or /.")
@click.option(
    "--service/--no-service",
    "as_service",
    default=None,
    help="Install the watcher as a service, or do not ask.  [default: ask on a terminal]",
)
@pass_run
def init(
    run: Invocation,
    path: str | None,
    source: str | None,
    *,
    of_user: bool,
    here: bool,
    force: bool,
    as_service: bool | None,
) -> None:
    """Protect a folder: register it and capture its memory files.

    PATH is the current folder unless given. Nothing is written into it. A second time captures what has changed since.
    A forgotten folder comes back with its whole history. Instructions in the folders of a project are found too, except
    where git ignores a folder. --user registers the home folder as the project "user": of it only the memory of agents
    is kept, never credentials, transcripts or caches. Below the root of a git repository, a terminal asks which of the
    two folders to take. When the folder looks like that of a project which is gone, a terminal asks whether to continue
    the history of that project. On a terminal it also offers to start the watcher as a service, if none runs; see
    `atlasctl service`.
    """
    from atlas_sdk.cli.init_choices import Choices
    from atlas_sdk.files import Tracking

    if of_user and (path is not None or source is not None):
        raise click.UsageError("--user is about the home folder: leave PATH and --from out")
    given = str(Path.home()) if of_user else run.start if path is None else path
    folder = folder_of(given, force=force or of_user)
    with run.opened() as atlas:
        choices = Choices(run, atlas, run.user(atlas, make=True))
        if source is None and path is None and not here and not of_user:
            folder = choices.root(folder)
        if source is not None:
            project, how = choices.moved(source, folder)
        else:
            project, how = choices.registered(folder, name="user" if of_user else None)
        captured = atlas.memory.capture(project)
        files = [version for version in atlas.memory.files(project) if not version.deleted]
    remember(run, project, makes=True)
    # Use `kept` instead of the size: the content of a file over the limit may be stored already, because another file
    # has the same content.
    hash_only = [version for version in files if version.kept is False]
    skipped = [*captured.skipped, *unkept(hash_only, Tracking.load(Path(project.path)).limit_bytes)]
    if run.out.json:
        run.out.record(
            {
                "project": of_project(project),
                "created": how == "created",
                "activated": how == "activated",
                "moved": how == "moved",
                **choices.fields(project),
                "captured": len(captured.taken),
                "files": [of_version(version) for version in files],
                "skipped": [of_skipped(*entry) for entry in skipped],
                "not_tracked": [of_skipped(*entry) for entry in captured.lookalikes],
            }
        )
    else:
        hints = choices.hints(project) if how == "created" else []
        _show(run, project, files=files, skipped=skipped, lookalikes=captured.lookalikes, how=how, hints=hints)
    if as_service is not False:
        from atlas_sdk.cli.service_install import offer

        offer(run, wanted=as_service)


def _show(
    run: Invocation,
    project: "Project",
    *,
    files: "list[Snapshot]",
    skipped: list[tuple[str, str]],
    lookalikes: tuple[tuple[str, str], ...],
    how: str,
    hints: list[str],
) -> None:
    from atlas_sdk.cli.memory_owners import Owners

    out = run.out
    shown = printable(project.path)
    watched = _is_watcher_running(run)
    hash_only = [version for version in files if version.kept is False]
    kept = len(files) - len(hash_only)
    done = "registered" if not kept else "protected" if watched else "saved"
    state = {
        "created": f"{done} now" if kept and watched else done,
        "activated": f"{done} again, with its history",
        "moved": f"{done} now, with the history of its old folder",
        "found": f"already {done}",
    }[how]
    if kept and not watched:
        state += ", not watched"
    amount = f": {count(kept, 'memory file')}" if kept else f"; no memory files {'kept' if files else 'yet'}"
    out.line(f"{shown} is {state}{amount}")
    if hash_only:
        its = "its hash is" if len(hash_only) == 1 else "their hashes are"
        out.line(f"{count(len(hash_only), 'file')} over the size limit: only {its} kept")
    owner = Owners(Path(project.path)).shown
    rows = [("", printable(version.path), size(version.size), owner(version.path)) for version in files]
    out.table(rows, styles=("", "", "dim", "dim"))
    if not files:
        out.note("CLAUDE.md, AGENTS.md and the like are captured when they appear.")
    warn_skipped(out, skipped)
    note_lookalikes(out, lookalikes)
    for hint in hints:
        out.note(hint)
    if not watched:
        out.note("No watcher runs, so the next change is not captured.")
    out.note("Next:")
    if not watched:
        out.note("  atlasctl service install             keep every change from now on, also after a restart")
        out.note("  atlasctl watch                       or: keep every change, in this terminal")
    out.note("  atlasctl checkpoint before-refactor  name this state, to come back to it")


def _is_watcher_running(run: Invocation) -> bool:
    """Return whether a watcher of this home works. A running watcher takes a new project at once."""
    from watcher.status import read_status

    status = read_status(run.settings.folder)
    return status is not None and status.is_fresh(datetime.now(UTC))

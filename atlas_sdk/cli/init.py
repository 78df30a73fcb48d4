"""`atlasctl init`: protect a folder."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atlas_sdk import AlreadyExists, InvalidInput, NotFound
from atlas_sdk.cli.advice import holds_everything
from atlas_sdk.cli.capturing import note_lookalikes, unkept, warn_skipped
from atlas_sdk.cli.command import Command
from atlas_sdk.cli.invocation import Invocation, pass_run
from atlas_sdk.cli.json_output import of_project, of_skipped, of_version
from atlas_sdk.cli.output import count, size
from atlas_sdk.cli.without_database import remember
from atlas_sdk.text import printable

if TYPE_CHECKING:
    from atlas_sdk import Atlas, Project, Snapshot, User


@click.command(
    cls=Command,
    examples=("atlasctl init", "atlasctl init ~/code/app", "atlasctl init --user", "atlasctl init ~/code/app --json"),
)
@click.argument("path", required=False)
@click.option("--user", "of_user", is_flag=True, help="Your own memory, such as ~/.claude, instead of a project's.")
@click.option("--force", is_flag=True, help="Also the home folder itself, or /.")
@click.option(
    "--service/--no-service",
    "as_service",
    default=None,
    help="Install the watcher as a service, or do not ask.  [default: ask on a terminal]",
)
@pass_run
def init(run: Invocation, path: str | None, *, of_user: bool, force: bool, as_service: bool | None) -> None:
    """Protect a folder: register it and capture its memory files.

    PATH is the current folder unless given. Nothing is written into it. A second time captures what has changed since.
    A forgotten folder comes back with its whole history. Instructions in the folders of a project are found too, except
    where git ignores a folder. --user registers the home folder as the project "user": of it only the memory of agents
    is kept, never credentials, transcripts or caches. On a terminal it offers to start the watcher as a service, if
    none runs; see `atlasctl service`.
    """
    from atlas_sdk.files import Tracking

    if of_user and path is not None:
        raise click.UsageError("--user is about the home folder: leave PATH out")
    given = str(Path.home()) if of_user else run.start if path is None else path
    folder = _folder(given, force=force or of_user)
    with run.opened() as atlas:
        project, how = _registered(atlas, run.user(atlas, make=True), folder, name="user" if of_user else None)
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
                "captured": len(captured.taken),
                "files": [of_version(version) for version in files],
                "skipped": [of_skipped(*entry) for entry in skipped],
                "not_tracked": [of_skipped(*entry) for entry in captured.lookalikes],
            }
        )
    else:
        _show(run, project, files=files, skipped=skipped, lookalikes=captured.lookalikes, how=how)
    if as_service is not False:
        from atlas_sdk.cli.service_install import offer

        offer(run, wanted=as_service)


def _folder(given: str, *, force: bool) -> Path:
    path = Path(os.path.realpath(Path(given).expanduser()))
    if not path.exists():
        raise NotFound(f"{printable(given)} does not exist; make the folder first", kind="folder", name=given)
    if not path.is_dir():
        raise InvalidInput(f"{printable(given)} is not a folder; give the folder that it is in", field="path")
    if not force and holds_everything(path):
        raise InvalidInput(
            f"{printable(str(path))} holds everything else: every folder in it would be taken for a part of this one "
            "project; give a project's folder, or --user for your own memory in it, or --force",
            field="path",
        )
    return path


def _registered(atlas: "Atlas", user: "User", folder: Path, *, name: str | None) -> "tuple[Project, str]":
    """Return the active project of exactly this folder, and "created", "activated" or "found"."""
    there = atlas.projects.at(folder, user=user)
    if there is None:
        try:
            return atlas.projects.create(user, path=folder, name=name), "created"
        except AlreadyExists:
            # Another process registered the folder meanwhile.
            there = atlas.projects.at(folder, user=user)
            if there is None:
                raise
    if there.status == "archived":
        return atlas.projects.activate(there), "activated"
    return there, "found"


def _show(
    run: Invocation,
    project: "Project",
    *,
    files: "list[Snapshot]",
    skipped: list[tuple[str, str]],
    lookalikes: tuple[tuple[str, str], ...],
    how: str,
) -> None:
    from atlas_sdk.cli.memory_owners import Owners

    out = run.out
    shown = printable(project.path)
    hash_only = [version for version in files if version.kept is False]
    kept = len(files) - len(hash_only)
    state = {
        "created": "protected now" if kept else "registered",
        "activated": f"{'protected' if kept else 'registered'} again, with its history",
        "found": f"already {'protected' if kept else 'registered'}",
    }[how]
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
    out.note("Next:")
    out.note("  atlasctl service install             keep every change from now on, also after a restart")
    out.note("  atlasctl watch                       or: keep every change, in this terminal")
    out.note("  atlasctl checkpoint before-refactor  name this state, to come back to it")

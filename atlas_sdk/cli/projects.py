"""`atlasctl projects`: the registered folders."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import evolve

from atlas_sdk import InvalidInput, NotFound
from atlas_sdk.cli.advice import init_advice
from atlas_sdk.cli.command import command_group, user_option, yes_option
from atlas_sdk.cli.folders import folder_of, worktree_of
from atlas_sdk.cli.invocation import Invocation, pass_run_anywhere
from atlas_sdk.cli.json_output import fields_of, of_project
from atlas_sdk.cli.output import count, plain, size
from atlas_sdk.cli.without_database import count_here, forget_here, remember
from atlas_sdk.text import named, printable, quoted

if TYPE_CHECKING:
    from atlas_sdk import Atlas, Project

#: The fewest hex digits of an id; fewer could be the name of a folder.
_SHORTEST_ID = 8
_LIVING = frozenset({"active", "archived"})


@command_group
def projects() -> None:
    """List, move, archive and delete projects.

    A project is a registered folder; `atlasctl init` registers one. PROJECT is its folder, its id, or the beginning of
    the id as `atlasctl projects list` shows it.
    """


@projects.command(
    "list", examples=("atlasctl projects list", "atlasctl projects list --all", "atlasctl projects list --json")
)
@user_option
@click.option("--all", "everything", is_flag=True, help="Also the archived and the deleted ones.")
@pass_run_anywhere
def list_projects(run: Invocation, email: str | None, *, everything: bool) -> None:
    """List the projects of a user, the oldest first.

    A line has the beginning of the id, the status, the folder, and when it was last changed or used. A git worktree
    also names the folder of its repository.
    """
    with run.opened() as atlas:
        found = atlas.projects.list(run.owner(atlas, email), status=None if everything else "active")
    run.out.listing(
        found,
        lambda one: {**_fields(one), "worktree_of": _encoded(worktree_of(one))},
        lambda one: (
            one.id.hex[:12],
            one.status,
            printable(one.path),
            run.out.when(one.updated_at),
            _relation(worktree_of(one)),
        ),
        styles=("yellow", "", "bold", "dim", "dim"),
    )
    if not found:
        run.out.note("no projects yet; atlasctl init in a folder registers it")


@projects.command(
    examples=("atlasctl projects show .", "atlasctl projects show ~/code/app --user ada@example.com --json")
)
@click.argument("given", metavar="PROJECT")
@user_option
@pass_run_anywhere
def show(run: Invocation, given: str, email: str | None) -> None:
    """Show a project at a glance.

    Its ids, its memory, its builds and its previews. Exits with 3 when there is no such project.
    """
    with run.opened() as atlas:
        found = find(run, atlas, given, email)
        health = atlas.projects.health(found)
    names = "memory_files memory_bytes last_snapshot_at builds builds_succeeded builds_failed"
    names += " last_build_at last_build_status active_previews"
    saved = "" if health.last_snapshot_at is None else f", last version {run.out.when(health.last_snapshot_at)}"
    run.out.details(
        {**_fields(found), **fields_of(health, names, builds=health.builds_total)},
        [
            ("folder", printable(found.path)),
            ("name", printable(found.name)),
            ("id", str(found.id)),
            ("session id", plain(found.session_id)),
            ("status", found.status),
            ("created", run.out.when(found.created_at)),
            ("changed", run.out.when(found.updated_at)),
            ("memory", f"{count(health.memory_files, 'file')}, {size(health.memory_bytes)}{saved}"),
            (
                "builds",
                f"{health.builds_total:,}, {health.builds_succeeded:,} succeeded, {health.builds_failed:,} failed",
            ),
            ("previews", f"{health.active_previews:,}"),
        ],
    )


@projects.command(examples=("atlasctl projects archive ~/code/app", "atlasctl projects archive . --json"))
@click.argument("given", metavar="PROJECT")
@user_option
@pass_run_anywhere
def archive(run: Invocation, given: str, email: str | None) -> None:
    """Stop protecting a project; its history is kept.

    What `atlasctl forget` does, also for another user's. Doing it again changes nothing.
    """
    _change(run, given, email, "archive", "archived; atlasctl projects activate takes that back")


@projects.command(examples=("atlasctl projects activate ~/code/app", "atlasctl projects activate . --json"))
@click.argument("given", metavar="PROJECT")
@user_option
@pass_run_anywhere
def activate(run: Invocation, given: str, email: str | None) -> None:
    """Protect an archived project again.

    It comes back with its whole history; the watcher looks after it from now on. Doing it again changes nothing.
    """
    _change(run, given, email, "activate", "active")


@projects.command(examples=("atlasctl projects delete ~/code/app", "atlasctl projects delete ~/code/app --yes --json"))
@click.argument("given", metavar="PROJECT")
@user_option
@yes_option
@pass_run_anywhere
def delete(run: Invocation, given: str, email: str | None, *, yes: bool) -> None:
    """Delete a project; its memory is kept until a purge.

    It cannot be activated again. Its folder and its session id are free for another project, its previews stop, and
    builds that run fail. The files in the folder stay. Asks first.
    """
    question = "Delete the project of {path} for good? Its versions stay until it is purged."
    _change(run, given, email, "delete", "deleted; atlasctl projects purge removes its versions", (question, yes))


def _change(
    run: Invocation, given: str, email: str | None, operation: str, done: str, asked: tuple[str, bool] | None = None
) -> None:
    with run.opened() as atlas:
        found = find(run, atlas, given, email)
        if asked is not None:
            run.confirm(asked[0].format(path=printable(found.path)), yes=asked[1])
        changed: Project = getattr(atlas.projects, operation)(found)
    remember(run, changed)
    run.out.result(_fields(changed), f"{printable(changed.path)} is {done}")


@projects.command(examples=("atlasctl projects purge ~/code/app --yes",))
@click.argument("given", metavar="PROJECT")
@user_option
@yes_option
@pass_run_anywhere
def purge(run: Invocation, given: str, email: str | None, *, yes: bool) -> None:
    """Remove a deleted project with every version.

    `atlasctl projects delete` comes first: no single command takes the memory of a project that is in use. Versions,
    checkpoints, builds and previews are removed for good; the usage ledger, the audit trail and the files in the folder
    stay. Asks first.
    """
    with run.opened() as atlas:
        found = find(run, atlas, given, email, statuses=frozenset({"deleted"}))
        if found.status != "deleted":
            shown = printable(given)
            raise click.UsageError(f"{shown} is {found.status}; first run: atlasctl projects delete {shown}")
        here = count_here(run, found)
        these = f", also {count(here, 'version')} saved on this machine and not in the database yet," if here else ""
        run.confirm(f"Remove every version of {printable(found.path)}{these} for good?", yes=yes)
        gone = atlas.projects.purge(found)
    forget_here(run, found)
    if gone is None:
        raise NotFound(f"the project {found.id} is purged already", kind="project", name=str(found.id))
    parts = f"{count(gone.memory_snapshots, 'version')} and {count(gone.checkpoints, 'checkpoint')}"
    run.out.result(
        {"project": _fields(found), "removed": fields_of(gone, "memory_snapshots checkpoints builds previews")},
        f"{printable(found.path)} is purged, with {parts}",
    )


@projects.command(examples=("atlasctl projects move ~/old/app ~/code/new",))
@click.argument("given", metavar="PROJECT")
@click.argument("path")
@user_option
@click.option("--force", is_flag=True, help="Although PATH is a project, which is deleted, or files stay behind.")
@pass_run_anywhere
def move(run: Invocation, given: str, path: str, email: str | None, *, force: bool) -> None:
    """Give a project another folder, with its whole history.

    Move the folder first: this command moves no files. PROJECT is the old folder or the id, PATH the folder now. The
    watcher looks there from now on. Refused while the old folder has files, or when PATH is a project; with --force
    that project is deleted, and its versions stay until a purge.
    """
    folder = folder_of(path, force=force)
    with run.opened() as atlas:
        found = find(run, atlas, given, email)
        replaced = atlas.projects.at(folder, user=run.owner(atlas, email)) if force else None
        moved = atlas.projects.move(found, folder, force=force)
    if replaced is not None and replaced.id != moved.id:
        # Otherwise the journal knows two active projects of this folder, and may capture for the deleted one.
        remember(run, evolve(replaced, status="deleted"))
    remember(run, moved)
    how = "is there already" if found.path == moved.path else f"is the project of {printable(found.path)} now"
    run.out.result(
        {**_fields(moved), "moved_from": _encoded(found.path)}, f"{printable(moved.path)} {how}, with its history"
    )


def find(
    run: Invocation, atlas: "Atlas", given: str, email: str | None, *, statuses: frozenset[str] = _LIVING
) -> "Project":
    """Return the project with this folder or id. If several fit, prefer one whose status is in `statuses`."""
    digits = given.replace("-", "").lower()
    folder = os.path.realpath(Path(given).expanduser())
    fitting = [
        one
        for one in atlas.projects.list(run.owner(atlas, email), status=None)
        if one.path == folder or (len(digits) >= _SHORTEST_ID and one.id.hex.startswith(digits))
    ]
    found = [one for one in fitting if one.status in statuses] or fitting
    if len(found) > 1:
        ids = ", ".join(str(one.id) for one in found)
        raise InvalidInput(f"{quoted(given)} fits several projects: {ids}; give the id", field="project")
    if not found:
        advice = init_advice(given) if Path(folder).is_dir() else "; atlasctl projects list --all shows them"
        raise NotFound(f"{named(given)} is not a project{advice}", kind="project", name=given)
    return found[0]


def _relation(main: str | None) -> str:
    return "" if main is None else f"worktree of {printable(main)}"


def _encoded(path: str | None) -> str | None:
    from atlas_sdk.files import to_text

    return None if path is None else to_text(path)


def _fields(project: "Project") -> dict[str, Any]:
    return {**of_project(project), **fields_of(project, "session_id updated_at")}

"""`atlasctl forget`: stop protecting a folder."""

from typing import TYPE_CHECKING

import click

from atlas_sdk.cli.command import Command, Flags

if TYPE_CHECKING:
    from atlas_sdk import Atlas, Project
    from atlas_sdk.cli.invocation import Invocation

__all__ = ["forget"]


@click.command(
    cls=Command, examples=("atlasctl forget", "atlasctl forget ~/code/app", "atlasctl forget ~/code/app --json")
)
@click.argument("path", required=False)
@click.pass_obj
def forget(flags: Flags, path: str | None) -> None:
    """Stop protecting a folder; its history is kept.

    PATH is a project's folder, the current project's unless given; it need not exist. The watcher and `status` ignore
    it from now on. Nothing is deleted: `atlasctl init` in the folder brings it back with every version. A second time
    changes nothing. Exits with 3 when it is not a project.
    """
    from atlas_sdk.cli.invocation import Invocation
    from atlas_sdk.cli.json_output import of_project
    from atlas_sdk.files import printable

    if path is not None:
        flags.project = path
    run = Invocation(flags)
    with run.opened() as atlas:
        found = _project(run, atlas, path)
        project = atlas.projects.archive(found)
    if flags.json:
        run.out.record({"project": of_project(project), "archived": found.status == "active"})
        return
    verb = "is not protected any more" if found.status == "active" else "is forgotten already"
    run.out.line(f"{printable(project.path)} {verb}; its history is kept")
    run.out.note(f"protect it again with: atlasctl init {printable(project.path)}")


def _project(run: "Invocation", atlas: "Atlas", path: str | None) -> "Project":
    from atlas_sdk import NotFound
    from atlas_sdk.files import printable

    user = run.owner(atlas)
    # Look for exactly this folder first: for a forgotten project, do not take the project around it.
    there = atlas.projects.at(run.start, user=user)
    if there is not None:
        return there
    around = atlas.projects.by_path(run.start, user=user)
    if path is not None:
        raise NotFound(
            f"{printable(path)} is not a project but a part of one; run: atlasctl forget {printable(around.path)}",
            kind="project",
            name=path,
        )
    return around

"""`atlasctl forget`: stop protecting a folder."""

from typing import TYPE_CHECKING

import click

from atlas_sdk import NotFound
from atlas_sdk.cli.command import Command
from atlas_sdk.cli.invocation import Invocation, pass_run
from atlas_sdk.cli.json_output import of_project
from atlas_sdk.cli.without_database import remember
from atlas_sdk.text import printable

if TYPE_CHECKING:
    from atlas_sdk import Atlas, Project


@click.command(
    cls=Command, examples=("atlasctl forget", "atlasctl forget ~/code/app", "atlasctl forget ~/code/app --json")
)
@click.argument("path", required=False)
@pass_run
def forget(run: Invocation, path: str | None) -> None:
    """Stop protecting a folder; its history is kept.

    PATH is a project's folder, the current project's unless given; it need not exist. The watcher and `status` ignore
    it from now on. Nothing is deleted: `atlasctl init` in the folder brings it back with every version. A second time
    changes nothing. Exits with 3 when it is not a project.
    """
    if path is not None:
        run.flags.project = path
    with run.opened() as atlas:
        found = _project(run, atlas, path)
        project = atlas.projects.archive(found)
    remember(run, project)
    verb = "is not protected any more" if found.status == "active" else "is forgotten already"
    run.out.result(
        {"project": of_project(project), "archived": found.status == "active"},
        f"{printable(project.path)} {verb}; its history is kept",
    )
    run.out.note(f"protect it again with: atlasctl init {printable(project.path)}")


def _project(run: Invocation, atlas: "Atlas", path: str | None) -> "Project":
    user = run.owner(atlas)
    # First look for a project of exactly this folder. `by_path` would skip a forgotten project, and return the project
    # around it.
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

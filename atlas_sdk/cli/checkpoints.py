"""`atlasctl checkpoint` and `atlasctl checkpoints`: name the state of a project, and list the names."""

import click

from atlas_sdk.cli.capturing import warn_skipped
from atlas_sdk.cli.command import UTF8, Command
from atlas_sdk.cli.invocation import Invocation, pass_run
from atlas_sdk.cli.json_output import of_checkpoint, of_skipped
from atlas_sdk.cli.output import count, plain, size
from atlas_sdk.cli.without_database import AWAY, save_here
from atlas_sdk.names import checkpoint_name


@click.command(
    cls=Command,
    examples=(
        "atlasctl checkpoint before-refactor",
        "atlasctl checkpoint v1 --note 'rules as reviewed'",
        "atlasctl checkpoint v2 --json",
    ),
)
@click.argument("name", type=UTF8)
@click.option("--note", metavar="TEXT", type=UTF8, help="A remark to store with it.")
@pass_run
def checkpoint(run: Invocation, name: str, note: str | None) -> int:
    """Name the state of all memory files.

    Captures the folder first, so that NAME means exactly the present files. Names are unique in a project. Versions
    that a checkpoint names are never deleted by age. While the database is away, the files and the name are saved on
    this machine, and stored when it is back; if NAME is taken then, it gets a number.
    """
    # Refuse a bad name before anything is captured.
    checkpoint_name(name)
    try:
        _checkpoint(run, name, note)
    except AWAY as away:
        return save_here(run, away, checkpoint=name, note=note)
    return 0


def _checkpoint(run: Invocation, name: str, note: str | None) -> None:
    with run.opened() as atlas:
        project = run.project(atlas)
        captured = atlas.memory.capture(project)
        made = atlas.memory.checkpoint(project, name, note=note)
    skipped = [of_skipped(*entry) for entry in captured.skipped]
    news = count(len(captured.taken), "new version")
    run.out.result(
        {**of_checkpoint(made), "captured": len(captured.taken), "skipped": skipped},
        f"{plain(made.name)}: {count(made.files, 'file')}, {size(made.size)}, {news}",
    )
    if not run.out.json:
        warn_skipped(run.out, captured.skipped)


@click.command(
    cls=Command, examples=("atlasctl checkpoints", "atlasctl checkpoints --all", "atlasctl checkpoints --json")
)
@click.option("--all", "everything", is_flag=True, help="Also those that restores made.")
@pass_run
def checkpoints(run: Invocation, *, everything: bool) -> None:
    """List checkpoints, newest first.

    Before every restore, undo and redo, a checkpoint named before-… keeps the files. --all shows these checkpoints too.
    """
    with run.opened() as atlas:
        found = atlas.memory.checkpoints(run.project(atlas))
    shown = [one for one in found if everything or one.kind == "named"]
    run.out.listing(
        shown,
        of_checkpoint,
        lambda one: (
            plain(one.name),
            run.out.when(one.created_at),
            count(one.files, "file"),
            size(one.size),
            plain(one.note or ""),
        ),
        styles=("bold", "dim", "", "", "dim"),
    )
    hidden = len(found) - len(shown)
    if hidden:
        run.out.note(f"{count(hidden, 'safety checkpoint')} of restores not shown; --all shows them")
    elif not shown:
        run.out.note("no checkpoints yet; atlasctl checkpoint NAME makes one")
